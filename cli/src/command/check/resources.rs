//! Configuration that is not in force.

use super::Finding;
use crate::{
    cluster::{Cluster, Error},
    command::analyze,
};
use linnet_controller::{analysis, compile::Status};

/// How many resources a message names before it only counts.
const NAMED: usize = 5;

/// Resources that the controller can't put in force.
pub(super) async fn rejected(cluster: &Cluster) -> Result<Vec<Finding>, Error> {
    let input = analyze::from_cluster(cluster).await?;
    let verdicts = analysis::analyze(&input, &analyze::default_context());
    let rejected: Vec<String> = verdicts
        .iter()
        .filter(|verdict| verdict.status == Status::Rejected)
        .map(|verdict| verdict.resource.to_string())
        .collect();
    Ok(vec![match rejected.len() {
        0 => Finding::ok(
            "resources",
            match verdicts.len() {
                0 => "no configuration resources".to_owned(),
                1 => "the only configuration resource is in force".to_owned(),
                count => format!("all {count} configuration resources are in force"),
            },
        ),
        count => {
            let more = count.saturating_sub(NAMED);
            let named = rejected[..count.min(NAMED)].join(", ");
            let named = match more {
                0 => named,
                more => format!("{named} and {more} more"),
            };
            let are = if count == 1 { "is" } else { "are" };
            Finding::warning(
                "resources",
                format!(
                    "{count} of {} configuration resources {are} not in force: {named}",
                    verdicts.len()
                ),
                "what is wrong with them: linnet analyze --all-namespaces",
            )
        }
    }])
}

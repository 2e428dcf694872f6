//! What may be typed. Validation beyond the shape of words is each command's.

use super::Command;
use crate::cluster::ClusterArguments;
use clap::Parser;

/// Linnet, a service mesh for Kubernetes.
#[derive(Debug, Parser)]
#[command(
    name = "linnet",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_argument_is_well_defined() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn cluster_flags_are_accepted_after_the_command() {
        let typed = ["linnet", "check", "--context", "staging"];
        let arguments = Arguments::try_parse_from(typed).unwrap();
        assert_eq!(arguments.cluster.context.as_deref(), Some("staging"));
    }
}

//! What every point needs: the cluster, programs run in its pods, the `linnet`
//! command, metrics, and the standing workloads.

pub(crate) mod binomial;
pub(crate) mod cluster;
pub(crate) mod command;
pub(crate) mod load;
pub(crate) mod metrics;
pub(crate) mod workload;

use std::time::{Duration, Instant};

pub(crate) use cluster::Cluster;

/// Runs one point against the cluster.
pub(crate) fn run<F: Future<Output = ()>>(point: fn(Cluster) -> F) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { point(Cluster::connect().await).await });
}

/// Asks `question` over and over until it says yes, at most for `limit`, and
/// prints how long that took, unless it was so at once. Only for what nothing
/// can be watched for: how a call fares.
pub(crate) async fn eventually(
    what: impl AsRef<str>,
    limit: Duration,
    mut question: impl AsyncFnMut() -> Result<(), String>,
) {
    let what = what.as_ref();
    let start = Instant::now();
    let mut waited = Duration::ZERO;
    loop {
        match question().await {
            Ok(()) if waited.is_zero() => return,
            Ok(()) => return println!("{what}: after {} ms", waited.as_millis()),
            Err(reason) if start.elapsed() > limit => {
                panic!("{what}: not so after {limit:?}: {reason}")
            }
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                waited = start.elapsed();
            }
        }
    }
}

//! How endpoints are called, as text: what differs from the default.

use linnet_mesh::destination::{
    Balance, ClientTls, ConnectionPool, Destination, DestinationPolicy,
};
use std::fmt::{Debug, Write};

pub(crate) fn write(text: &mut String, destination: &Destination) {
    write_policy(text, "calls", &destination.policy);
    for (name, policy) in &destination.subsets {
        write_policy(text, &format!("calls to {name}"), policy);
    }
}

fn write_policy(text: &mut String, title: &str, policy: &DestinationPolicy) {
    let DestinationPolicy {
        pool,
        outlier,
        balance,
        locality,
        warmup,
        tls,
        sources,
    } = policy;
    writeln!(text, "  {title}:").unwrap();
    let mut part = |part: &dyn Debug, source: &dyn Debug| {
        writeln!(text, "    {part:?}").unwrap();
        writeln!(text, "      {source:?}").unwrap();
    };
    let named = |source: &Option<linnet_mesh::ResourceRef>| {
        source
            .as_ref()
            .map_or("default".to_owned(), ToString::to_string)
    };
    if *pool != ConnectionPool::DEFAULT {
        part(pool, &named(&sources.pool));
    }
    if let Some(outlier) = outlier {
        part(outlier, &named(&sources.outlier));
    }
    if *balance != Balance::default() {
        part(balance, &named(&sources.balance));
    }
    if let Some(locality) = locality {
        part(locality, &named(&sources.balance));
    }
    if let Some(warmup) = warmup {
        part(warmup, &named(&sources.balance));
    }
    if *tls != ClientTls::Auto {
        part(tls, &named(&sources.tls));
    }
}

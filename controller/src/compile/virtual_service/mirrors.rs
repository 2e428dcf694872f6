//! Destinations that get copies.

use super::{Compiler, Destination};
use crate::resource::{self, HttpRoute, HttpRouteDestination, Percentage};
use linnet_mesh::route::Share;

impl Compiler<'_> {
    pub(super) fn mirrors(&mut self, path: &str, route: &HttpRoute) -> Vec<(Destination, Share)> {
        let older = route.mirror_percent.map(|percent| Percentage {
            value: percent as f64,
        });
        let one = route.mirror.as_ref().map(|destination| {
            let percentage = route.mirror_percentage.or(older);
            let at = format!("{path}.mirrorPercentage");
            (format!("{path}.mirror"), destination, at, percentage)
        });
        let several = route.mirrors.iter().enumerate().map(|(position, mirror)| {
            let at = format!("{path}.mirrors[{position}]");
            let destination = format!("{at}.destination");
            let share = format!("{at}.percentage");
            (destination, &mirror.destination, share, mirror.percentage)
        });
        let all: Vec<_> = one.into_iter().chain(several).collect();
        all.into_iter()
            .filter_map(|(path, destination, at, percentage)| {
                let share = match percentage {
                    None => Share::ALL,
                    Some(percentage) => self.percentage(&at, percentage),
                };
                Some((self.mirror(&path, destination)?, share))
            })
            .collect()
    }

    fn mirror(&mut self, path: &str, destination: &resource::Destination) -> Option<Destination> {
        let route = HttpRouteDestination {
            destination: destination.clone(),
            weight: None,
            headers: None,
        };
        self.destination(path, &route, false)
    }
}

use super::*;
use linnet_mesh::AppProtocol;

fn key(name: &str) -> ServicePort {
    ServicePort {
        namespace: "default".into(),
        name: name.into(),
        port: 80,
    }
}

fn endpoint(address: &str) -> Arc<Endpoint> {
    Arc::new(Endpoint::at(address.parse().unwrap()))
}

fn service(name: &str) -> Update {
    Update::Service(Arc::new(Service {
        key: key(name),
        hostname: format!("{name}.default.svc.cluster.local"),
        protocol: AppProtocol::Detect,
        http: None,
        subsets: vec![],
        tcp: None,
        destination: None,
    }))
}

fn endpoints(replace: bool, upserts: &[&str], removed: &[&str]) -> Update {
    Update::Endpoints(EndpointsUpdate {
        service: key("a"),
        replace,
        upserts: upserts.iter().map(|address| endpoint(address)).collect(),
        removed: removed
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    })
}

fn addresses(cell: &ServiceCell) -> Vec<String> {
    cell.endpoints()
        .iter()
        .map(|e| e.address.to_string())
        .collect()
}

#[tokio::test]
async fn a_target_is_asked_for_once_and_answered_whole() {
    let (directory, mut commands) = Directory::new(vec![]);
    let target = Target::Address("10.0.0.1:80".parse().unwrap());
    let asking = tokio::join!(
        directory.resolve(target.clone()),
        directory.resolve(target.clone()),
        async {
            assert_eq!(
                commands.recv().await,
                Some(Command::Subscribe(target.clone()))
            );
            assert!(commands.try_recv().is_err());
            directory.apply(vec![
                Update::Resolution(target.clone(), Resolution::Service(key("a"))),
                service("a"),
                endpoints(true, &["10.1.0.1:8080"], &[]),
            ]);
        }
    );
    let Some(Resolved::Service(cell)) = asking.0 else {
        panic!("a service, not {:?}", asking.0);
    };
    assert!(asking.1.is_some());
    assert_eq!(addresses(&cell), ["10.1.0.1:8080"]);
    directory.apply(vec![endpoints(
        false,
        &["10.1.0.2:8080"],
        &["10.1.0.1:8080"],
    )]);
    assert_eq!(addresses(&cell), ["10.1.0.2:8080"]);
    directory.apply(vec![Update::ServiceRemoved(key("a"))]);
    assert!(cell.service().is_none());
    assert!(addresses(&cell).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_controller_is_not_waited_for_for_ever() {
    let (directory, _commands) = Directory::new(vec![]);
    let target = Target::Host("a.default.svc.cluster.local:80".into());
    assert!(directory.resolve(target).await.is_none());
}

#[tokio::test]
async fn a_new_stream_asks_for_all_that_is_known() {
    let (directory, _commands) = Directory::new(vec![]);
    let target = Target::Peer("10.0.0.9".parse().unwrap());
    directory.subscribed(target.clone()).unwrap();
    assert_eq!(directory.targets(), std::slice::from_ref(&target));
    directory.apply(vec![Update::Peer("10.0.0.9".parse().unwrap(), None)]);
    assert!(matches!(
        directory.resolve(target).await,
        Some(Resolved::Peer(None))
    ));
}

#[tokio::test]
async fn the_pod_itself_is_called_in_plaintext() {
    let (directory, _commands) = Directory::new(vec!["10.1.0.1".parse().unwrap()]);
    let meshed = |address: &str| {
        let mut endpoint = endpoint(address);
        Arc::make_mut(&mut endpoint).identity =
            Some("spiffe://cluster.local/ns/default/sa/a".parse().unwrap());
        endpoint
    };
    let target = Target::Address("10.0.0.1:80".parse().unwrap());
    directory.subscribed(target.clone()).unwrap();
    directory.apply(vec![
        Update::Resolution(target.clone(), Resolution::Service(key("a"))),
        Update::Endpoints(EndpointsUpdate {
            service: key("a"),
            replace: true,
            upserts: vec![meshed("10.1.0.1:8080"), meshed("10.1.0.2:8080")],
            removed: vec![],
        }),
    ]);
    let Some(Resolved::Service(cell)) = directory.resolve(target).await else {
        panic!("a service");
    };
    let meshed: Vec<_> = cell
        .endpoints()
        .iter()
        .map(|e| e.identity.is_some())
        .collect();
    assert_eq!(meshed, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_callers_workload_while_the_controller_is_away() {
    let (directory, mut commands) = Directory::new(vec![]);
    let ip: IpAddr = "10.0.0.9".parse().unwrap();
    let asked = tokio::time::Instant::now();
    directory.set_away(true);
    assert_eq!(directory.peer(ip).await, None);
    assert_eq!(asked.elapsed(), std::time::Duration::ZERO);
    // It is asked for all the same, and known afterwards.
    assert_eq!(
        commands.try_recv(),
        Ok(Command::Subscribe(Target::Peer(ip)))
    );
    directory.apply(vec![Update::Peer(ip, Some(Arc::default()))]);
    assert_eq!(directory.peer(ip).await, Some(Arc::default()));
    directory.set_away(false);
    assert_eq!(directory.peer("10.0.0.8".parse().unwrap()).await, None);
    assert_eq!(asked.elapsed(), ANSWER_TIMEOUT);
}

fn peer(number: u32) -> Target {
    Target::Peer(std::net::Ipv4Addr::from_bits(0x0b00_0000 + number).into())
}

fn address(number: u32) -> Target {
    let ip = std::net::Ipv4Addr::from_bits(0x0c00_0000 + number);
    Target::Address((ip, 80).into())
}

/// Makes the target of a number.
type Numbered = fn(u32) -> Target;

/// Every number that a client drives, with its bound.
const DRIVEN: [(Numbered, usize); 2] = [(peer, limits::PEERS), (address, limits::TARGETS)];

#[tokio::test]
async fn what_clients_drive_is_bounded_and_the_oldest_goes_first() {
    for (target, most) in DRIVEN {
        let (directory, mut commands) = Directory::new(vec![]);
        let mut known = HashSet::new();
        for number in 0..20_000 {
            // One that is used again and again.
            directory.subscribed(target(0)).unwrap();
            directory.subscribed(target(number)).unwrap();
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::Subscribe(target) => assert!(known.insert(target)),
                    Command::Unsubscribe(target) => assert!(known.remove(&target)),
                }
                // What a controller takes, it is never asked to exceed.
                assert!(known.len() <= most, "{}", known.len());
            }
        }
        let kept: HashSet<Target> = directory.targets().into_iter().collect();
        assert_eq!(kept, known);
        assert!(known.contains(&target(0)));
        let newest = 20_000 - u32::try_from(most - most / 16).unwrap();
        assert!((newest + 1..20_000).all(|number| known.contains(&target(number))));
    }
}

#[tokio::test]
async fn a_service_that_connections_use_stays() {
    let (directory, _commands) = Directory::new(vec![]);
    let used = Target::Host("a.default.svc.cluster.local:80".into());
    directory.subscribed(used.clone()).unwrap();
    directory.apply(vec![
        Update::Resolution(used.clone(), Resolution::Service(key("a"))),
        service("a"),
    ]);
    let Some(Resolved::Service(cell)) = directory.resolve(used.clone()).await else {
        panic!("a service");
    };
    directory.mark_used(&cell);
    for number in 0..10_000 {
        directory.subscribed(address(number)).unwrap();
    }
    assert!(directory.targets().contains(&used));
    // Peers and addresses don't take one another's room.
    for number in 0..10_000 {
        directory.subscribed(peer(number)).unwrap();
    }
    let kept = directory.targets().len();
    let most = limits::TARGETS + limits::PEERS;
    // A sixteenth goes at a time.
    assert!((most - most / 16..=most).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_host_that_no_controller_takes_is_not_asked_for() {
    let (directory, mut commands) = Directory::new(vec![]);
    let long = format!("{}:80", "x".repeat(limits::HOST));
    assert!(directory.resolve(Target::Host(long.into())).await.is_none());
    assert!(commands.try_recv().is_err());
}

#[tokio::test]
async fn commands_that_nobody_takes_are_bounded_and_all_is_asked_for_again() {
    let (directory, mut commands) = Directory::new(vec![]);
    for number in 0..100_000 {
        directory.subscribed(peer(number)).unwrap();
    }
    assert!(commands.len() <= COMMANDS);
    assert!(directory.take_behind());
    assert!(!directory.take_behind());
    while commands.try_recv().is_ok() {}
    directory.subscribed(address(1)).unwrap();
    assert!(!directory.take_behind());
}

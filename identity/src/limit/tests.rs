use super::*;
use proptest::prelude::*;

fn budget(burst: u32, per_second: u32) -> Budget {
    Budget {
        burst: burst.try_into().unwrap(),
        per_second: per_second.try_into().unwrap(),
    }
}

fn caller(namespace: &str, pod: &str) -> Caller {
    Caller {
        namespace: namespace.to_owned(),
        service_account: "payment".to_owned(),
        pod: Some(pod.to_owned()),
        pod_uid: None,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_has_a_budget_of_its_own_that_refills() {
    let limiter = Limiter::new(Limits {
        address: budget(2, 1),
        network: budget(2, 1),
        caller: budget(2, 1),
        namespace: budget(3, 1),
        all: budget(5, 1),
    });
    let refused = Err(TooMany { retry_after: 2 });
    let ask = |address: &str, namespace: &str, pod: &str| {
        let arrival = limiter.arrive(ip(address))?;
        limiter.attested(&arrival, &caller(namespace, pod))
    };
    // A caller's.
    assert_eq!(ask("10.0.0.1", "shop", "a"), Ok(()));
    assert_eq!(ask("10.0.0.1", "shop", "a"), Ok(()));
    assert_eq!(ask("10.0.0.1", "shop", "a"), refused);
    // Its namespace's.
    assert_eq!(ask("10.0.0.1", "shop", "b"), Ok(()));
    assert_eq!(ask("10.0.0.1", "shop", "c"), refused);
    // What all share.
    assert_eq!(ask("10.0.0.1", "blog", "a"), Ok(()));
    assert_eq!(ask("10.0.0.1", "blog", "b"), Ok(()));
    assert_eq!(ask("10.0.0.1", "blog", "c"), refused);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ask("10.0.0.1", "blog", "d"), Ok(()));
    // Attested requests have cost the address nothing; others do.
    assert!(limiter.arrive(ip("10.0.0.1")).is_ok());
    limiter.forget_idle();
    assert!(limiter.arrive(ip("10.0.0.1")).is_ok());
    assert!(limiter.arrive(ip("10.0.0.1")).is_err());
    assert!(limiter.arrive(ip("10.0.0.2")).is_ok());
    tokio::time::advance(Duration::from_secs(60)).await;
    limiter.forget_idle();
    assert!(lock(&limiter.addresses).0.is_empty());
    assert!(lock(&limiter.networks).0.is_empty());
    assert!(lock(&limiter.attested).callers.0.is_empty());
}

#[tokio::test(start_paused = true)]
async fn ipv6_neighbours_have_budgets_of_their_own_and_a_wide_one_together() {
    let limiter = Limiter::new(Limits {
        address: budget(2, 1),
        network: budget(5, 1),
        ..Limits::default()
    });
    assert!(limiter.arrive(ip("fd00:0:0:1::1")).is_ok());
    assert!(limiter.arrive(ip("fd00:0:0:1::1")).is_ok());
    for _ in 0..10 {
        assert!(limiter.arrive(ip("fd00:0:0:1::1")).is_err());
    }
    // Nodes of a cluster share a network.
    for _ in 0..10 {
        let neighbour = limiter.arrive(ip("fd00:0:0:1:ffff::2")).unwrap();
        assert_eq!(limiter.attested(&neighbour, &caller("shop", "a")), Ok(()));
    }
    // A host with any number of addresses.
    let host = (3..99).map(|last| ip(&format!("fd00:0:0:1::{last}")));
    assert_eq!(host.filter(|ip| limiter.arrive(*ip).is_ok()).count(), 3);
    assert!(limiter.arrive(ip("fd00:0:0:2::1")).is_ok());
    // An IPv4 address is one, however it is written.
    assert!(limiter.arrive(ip("10.0.0.1")).is_ok());
    assert!(limiter.arrive(ip("::ffff:10.0.0.1")).is_ok());
    assert!(limiter.arrive(ip("::ffff:10.0.0.1")).is_err());
    assert!(limiter.arrive(ip("10.0.0.2")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_in_a_loop_costs_its_address_what_its_caller_has_not() {
    let limiter = Limiter::new(Limits::default());
    for address in ["10.0.0.1", "fd00::1"] {
        let looping = caller("shop", address);
        let attested = (0..1000).take_while(|_| {
            let arrival = limiter.arrive(ip(address));
            arrival.is_ok_and(|arrival| {
                let _ = limiter.attested(&arrival, &looping);
                true
            })
        });
        // Its own budget, and its address's.
        assert_eq!(attested.count(), 20 + 200, "{address}");
    }
}

#[tokio::test(start_paused = true)]
async fn any_number_of_addresses_is_remembered_in_bounded_memory() {
    let limiter = Limiter::new(Limits::default());
    let spent = ip("192.0.2.1");
    while limiter.arrive(spent).is_ok() {}
    for number in 0..4 * u32::try_from(REMEMBERED).unwrap() {
        let stranger = IpAddr::V6((u128::from(number) << 64).into());
        assert!(limiter.arrive(stranger).is_ok());
        assert!(lock(&limiter.addresses).0.len() <= REMEMBERED);
    }
    assert!(
        limiter.arrive(spent).is_err(),
        "who has spent most is remembered"
    );
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// Junk from one of some addresses, so many times.
    Junk(u8, u16),
    /// Time goes on, milliseconds.
    Wait(u16),
    /// The honest caller asks, within its limit.
    Honest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..8u8, 1..600u16).prop_map(|(address, times)| Step::Junk(address, times)),
        2 => (0..2000u16).prop_map(Step::Wait),
        2 => Just(Step::Honest),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn no_mix_of_unattested_callers_delays_an_attested_one(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let limiter = Limiter::new(Limits::default());
            let honest = caller("shop", "payment-1");
            // What the caller may, counted apart: its own limit.
            let mut own = Table::default();
            for step in steps {
                match step {
                    Step::Junk(address, times) => {
                        for _ in 0..times {
                            let _ = limiter.arrive(IpAddr::from([10, 0, 1, address]));
                        }
                    }
                    Step::Wait(time) => {
                        tokio::time::advance(Duration::from_millis(time.into())).await;
                    }
                    Step::Honest => {
                        let may = own.spend(&(), Limits::default().caller);
                        let arrival = limiter.arrive(ip("10.0.0.9")).unwrap();
                        assert_eq!(limiter.attested(&arrival, &honest), may);
                    }
                }
            }
        });
    }
}

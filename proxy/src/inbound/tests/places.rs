//! Who gives way when all places are taken: not whoever waits for an answer.

use super::*;
use linnet_runtime::places::Places;

impl World {
    /// A connection of an address that holds one of these places.
    async fn placed(&self, places: &Places, address: [u8; 4]) -> TcpStream {
        let (client, stream, peer) = self.accepted().await;
        let place = places.take(address.into()).unwrap();
        let arrival = self.arrival(peer, Some(Rc::new(place.activity())));
        tokio::task::spawn_local(place.hold(serve_connection(arrival, stream)));
        client
    }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.unwrap();
        read.push(byte);
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_connection_that_waits_for_a_slow_answer_outlives_all_idle_ones() {
    let test = async {
        let world = World::start(true).await;
        world.set(vec![]);
        let places = Places::new(4);
        // The application reads all of a request before it answers.
        let mut slow = world.placed(&places, [10, 0, 0, 1]).await;
        let request = b"POST / HTTP/1.1\r\nhost: db\r\ncontent-length: 1\r\n\r\n";
        slow.write_all(request).await.unwrap();
        while world.reached.get() == 0 {
            tokio::task::yield_now().await;
        }
        let mut idle = Vec::new();
        for _ in 0..3 {
            let mut stream = world.placed(&places, [10, 0, 0, 1]).await;
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: db\r\n\r\n")
                .await
                .unwrap();
            assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
            idle.push(stream);
        }
        // Two of others come, and two go: the ones that have been idle for longest.
        let mut others = Vec::new();
        for (goes, other) in [[10, 0, 0, 2], [10, 0, 0, 3]].into_iter().enumerate() {
            others.push(world.placed(&places, other).await);
            let ended = idle[goes].read(&mut [0]).await;
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        }
        slow.write_all(b"x").await.unwrap();
        assert!(head(&mut slow).await.starts_with("HTTP/1.1 200"));
        // Its answer has come: it is idle like the others, and was used last.
        idle[2]
            .write_all(b"GET / HTTP/1.1\r\nhost: db\r\n\r\n")
            .await
            .unwrap();
        assert!(head(&mut idle[2]).await.starts_with("HTTP/1.1 200"));
    };
    LocalSet::new().run_until(test).await;
}

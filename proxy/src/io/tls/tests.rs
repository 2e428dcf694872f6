use super::*;
use bytes::Bytes;
use linnet_workload::testing::Authority;
use rustls::{HandshakeKind, RootCertStore, pki_types::PrivatePkcs8KeyDer};
use std::{future::Future, io::IoSlice};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Between two workloads of one mesh.
struct Configs(Arc<ClientConfig>, Arc<ServerConfig>);

impl Configs {
    fn new() -> Self {
        let authority = Authority::default();
        let alpn: &[&[u8]] = &[b"linnet/opaque"];
        Self(
            authority.workload("default", "a").client_config(alpn),
            authority.workload("default", "b").server_config(alpn, true),
        )
    }

    /// As a server outside the mesh may be.
    fn of_tls12() -> Self {
        let own = rcgen::generate_simple_self_signed(["10.0.0.1".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let versions = [&rustls::version::TLS12];
        Self(
            ClientConfig::builder_with_protocol_versions(&versions)
                .with_root_certificates(roots)
                .with_no_client_auth()
                .into(),
            ServerConfig::builder_with_protocol_versions(&versions)
                .with_no_client_auth()
                .with_single_cert(vec![own.cert.der().clone()], key.into())
                .unwrap()
                .into(),
        )
    }

    /// With records of so many bytes at most.
    fn fragmented(mut self, size: usize) -> Self {
        Arc::make_mut(&mut self.0).max_fragment_size = Some(size);
        Arc::make_mut(&mut self.1).max_fragment_size = Some(size);
        self
    }

    fn connect<S>(&self, socket: S) -> impl Future<Output = io::Result<Client<S>>> + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Client::connect(self.0.clone(), name(), socket)
    }

    fn accept<S>(&self, socket: S) -> impl Future<Output = io::Result<Server<S>>> + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Server::accept(self.1.clone(), Rewind::new(Bytes::new(), socket))
    }

    async fn pair(&self, capacity: usize) -> (Client<DuplexStream>, Server<DuplexStream>) {
        let (near, far) = duplex(capacity);
        let (client, server) = tokio::join!(self.connect(near), self.accept(far));
        (client.unwrap(), server.unwrap())
    }
}

fn name() -> ServerName<'static> {
    "10.0.0.1".try_into().unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n % 251) as u8).collect()
}

fn error<T>(result: io::Result<T>) -> io::Error {
    result.err().expect("an error")
}

/// Sends all of `data` in such pieces and reads as much in such others, both ways at
/// once.
async fn exchange<A, B>(one: A, other: B, data: &[u8], write: usize, read: usize)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut one_read, mut one_write) = tokio::io::split(one);
    let (mut other_read, mut other_write) = tokio::io::split(other);
    let there = async {
        for piece in data.chunks(write) {
            one_write.write_all(piece).await.unwrap();
        }
        one_write.flush().await.unwrap();
    };
    let back = async {
        other_write.write_all(data).await.unwrap();
        other_write.flush().await.unwrap();
    };
    let arrives = async {
        let mut all = Vec::new();
        let mut piece = vec![0; read];
        while all.len() < data.len() {
            let length = other_read.read(&mut piece).await.unwrap();
            assert!(length > 0);
            all.extend_from_slice(&piece[..length]);
        }
        assert!(all == data);
    };
    let returns = async {
        let mut all = vec![0; data.len()];
        one_read.read_exact(&mut all).await.unwrap();
        assert!(all == data);
    };
    tokio::join!(there, back, arrives, returns);
}

#[tokio::test]
async fn a_megabyte_each_way_at_once_through_narrow_pipes() {
    let data = pattern(1 << 20);
    for (capacity, write, read) in [(1000, 10_000, 777), (40_000, 1 << 20, 1 << 17)] {
        let (mut client, mut server) = Configs::new().pair(capacity).await;
        exchange(&mut client, &mut server, &data, write, read).await;
        assert_eq!(
            client.session().alpn_protocol(),
            Some(&b"linnet/opaque"[..])
        );
        assert!(server.session().peer_certificates().is_some());
    }
}

#[tokio::test]
async fn nothing_is_held_while_idle() {
    let (mut client, mut server) = Configs::new().pair(2000).await;
    exchange(&mut client, &mut server, &pattern(200_000), 5000, 999).await;
    fn is_bare<C: Side, S>(stream: &mut TlsStream<C, S>) -> bool {
        let Machine {
            plaintext, unsent, ..
        } = &mut stream.machine;
        // What has been consumed of a buffer is not in its capacity.
        let held = plaintext.try_reclaim(1) || unsent.capacity() > 0;
        !held && stream.part.is_empty()
    }
    assert!(is_bare(&mut client));
    assert!(is_bare(&mut server));
}

#[tokio::test]
async fn tokio_rustls_is_understood_at_either_end() {
    for configs in [Configs::new(), Configs::of_tls12()] {
        let data = pattern(300_000);
        let (near, far) = duplex(3000);
        let theirs = TlsAcceptor::from(configs.1.clone()).accept(far);
        let (ours, theirs) = tokio::join!(configs.connect(near), theirs);
        exchange(ours.unwrap(), theirs.unwrap(), &data, 20_000, 5000).await;
        let (near, far) = duplex(3000);
        let theirs = TlsConnector::from(configs.0.clone()).connect(name(), near);
        let (ours, theirs) = tokio::join!(configs.accept(far), theirs);
        exchange(ours.unwrap(), theirs.unwrap(), &data, 20_000, 5000).await;
    }
}

#[tokio::test]
async fn messages_in_fragments_are_joined_and_do_not_hinder_a_writer() {
    // Less than a record of the handshake, and of the tickets after it.
    let configs = Configs::new().fragmented(64);
    let (near, far) = duplex(70);
    let accept = async {
        let mut server = configs.accept(far).await.unwrap();
        let mut said = Vec::new();
        server.read_to_end(&mut said).await.unwrap();
        said
    };
    let connect = async {
        let mut client = configs.connect(near).await.unwrap();
        let (mut in_parts, mut accepted) = (0, 0);
        // The server does not listen before its tickets are with us.
        for _ in 0..1000 {
            poll_fn(|context| {
                let mut piece = [0; 10];
                let mut piece = ReadBuf::new(&mut piece);
                let read = Pin::new(&mut client).poll_read(context, &mut piece);
                assert!(read.is_pending());
                in_parts += usize::from(!client.part.is_empty());
                let written = Pin::new(&mut client).poll_write(context, b"!");
                accepted += usize::from(written.is_ready());
                Poll::Ready(())
            })
            .await;
            tokio::task::yield_now().await;
        }
        assert!(in_parts > 0);
        client.shutdown().await.unwrap();
        accepted
    };
    let (said, accepted) = tokio::join!(accept, connect);
    assert!(accepted > 1);
    assert_eq!(said, vec![b'!'; accepted]);
}

#[tokio::test]
async fn slices_go_in_as_few_records_as_there_can_be() {
    let (mut client, mut server) = Configs::new().pair(1 << 20).await;
    let (small, large) = (pattern(100), pattern(40_000));
    let slices = [&small, &small, &large, &small].map(|slice| IoSlice::new(slice));
    assert!(client.is_write_vectored());
    assert_eq!(client.write_vectored(&slices).await.unwrap(), 40_300);
    let mut wire = vec![0; 1 << 17];
    let length = server.socket.read(&mut wire).await.unwrap();
    let mut records = Vec::new();
    let mut rest = &wire[..length];
    while let [_, _, _, high, low, body @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        records.push(length - 17);
        rest = &body[length..];
    }
    assert_eq!(records, [16_384, 16_384, 7532]);
    // The bytes are those of the slices.
    server.part = wire[..length].into();
    client.write_all(b"!").await.unwrap();
    let mut all = vec![0; 40_301];
    server.read_exact(&mut all).await.unwrap();
    assert!(all == [&small, &small, &large, &small, &b"!"[..]].concat());
}

#[tokio::test]
async fn a_goodbye_ends_one_direction_and_its_lack_is_an_error() {
    let (mut client, mut server) = Configs::new().pair(1000).await;
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "bye");
    assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
    server.write_all(b"late").await.unwrap();
    server.flush().await.unwrap();
    let mut late = [0; 4];
    client.read_exact(&mut late).await.unwrap();
    assert_eq!(&late, b"late");
    let refused = error(client.write(b"more").await);
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    drop(server);
    let cut = error(client.read(&mut [0; 9]).await);
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_peer_that_changes_its_keys_is_followed() {
    let configs = Configs::new();
    let (near, far) = duplex(1 << 20);
    let theirs = TlsConnector::from(configs.0.clone()).connect(name(), near);
    let (ours, theirs) = tokio::join!(configs.accept(far), theirs);
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    for _ in 0..3 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        exchange(&mut ours, &mut theirs, &pattern(50_000), 9000, 4000).await;
    }
}

#[tokio::test]
async fn the_second_connection_resumes_the_session_of_the_first() {
    let configs = Configs::new();
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (mut client, mut server) = configs.pair(1000).await;
        // The tickets are with the first bytes of the server.
        exchange(&mut client, &mut server, b"hello", 5, 5).await;
        assert_eq!(client.session().handshake_kind(), Some(expected));
        assert_eq!(server.session().handshake_kind(), Some(expected));
    }
}

#[tokio::test]
async fn a_client_that_speaks_something_else_gets_an_alert() {
    let configs = Configs::new();
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 0]] {
        // Said before and after the stream was given to us.
        for early in [0, said.len()] {
            let (mut near, far) = duplex(1000);
            near.write_all(&said[early..]).await.unwrap();
            let rewind = Rewind::new(Bytes::copy_from_slice(&said[..early]), far);
            let refused = error(Server::accept(configs.1.clone(), rewind).await);
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
            let mut alert = Vec::new();
            near.read_to_end(&mut alert).await.unwrap();
            assert_eq!(alert[..6], [0x15, 3, 3, 0, 2, 2], "{refused}");
        }
    }
    let (mut near, far) = duplex(1000);
    near.write_all(&[0x16, 3, 1, 1, 0, 1, 0]).await.unwrap();
    drop(near);
    let cut = error(configs.accept(far).await);
    assert_eq!(cut.to_string(), "tls handshake eof");
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_came_before_a_bad_record_is_read_and_its_sender_is_told() {
    let (mut client, mut server) = Configs::new().pair(1 << 20).await;
    client.write_all(b"good").await.unwrap();
    let mut bad = vec![0x17, 3, 3, 0, 40];
    bad.resize(45, 7);
    client.socket.write_all(&bad).await.unwrap();
    let mut piece = [0; 100];
    assert_eq!(server.read(&mut piece).await.unwrap(), 4);
    let refused = error(server.read(&mut piece).await);
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    assert_eq!(refused.to_string(), "cannot decrypt peer's message");
    assert!(server.read(&mut piece).await.is_err());
    assert!(server.write(b"?").await.is_err());
    drop(server);
    let told = error(client.read(&mut piece).await);
    assert_eq!(told.to_string(), "received fatal alert: BadRecordMac");
}

#[tokio::test]
async fn records_of_too_few_or_too_many_bytes_are_refused() {
    for bad in [vec![0x17, 3, 3, 0xff, 0], [0x17, 3, 3, 0, 0].repeat(100)] {
        let (mut client, mut server) = Configs::new().pair(1 << 20).await;
        client.socket.write_all(&bad).await.unwrap();
        let refused = error(server.read(&mut [0; 9]).await);
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_makes_the_writer_wait() {
    let (mut client, mut server) = Configs::new().pair(1000).await;
    let data = pattern(200_000);
    let first = client.write(&data).await.unwrap();
    assert_eq!(first, 64 * 1024);
    let kept = client.machine.unsent.len();
    assert!((first - 1000..first + 1000).contains(&kept), "{kept}");
    poll_fn(|context| {
        let second = Pin::new(&mut client).poll_write(context, &data);
        assert!(second.is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(client.machine.unsent.len(), kept);
    let mut all = vec![0; first];
    let (flushed, read) = tokio::join!(client.flush(), server.read_exact(&mut all));
    flushed.unwrap();
    read.unwrap();
    assert!(all == data[..first]);
}

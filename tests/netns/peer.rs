//! What the netns tests run inside a namespace: listeners that report where a
//! connection was originally headed, clients that print the report, and
//! linnet-init itself. One process per role, so that it can be started by
//! `nsenter` and, for the sidecar's exemption, as another user.
#![allow(
    clippy::print_stdout,
    reason = "standard output is how it reports to the test"
)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use linnet_proxy::config::Config;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Long enough that only a packet that is dropped runs into it.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Parser)]
enum Role {
    /// Answers on these ports of both families until its standard input ends.
    Serve {
        /// TCP ports.
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<u16>,
        /// UDP ports.
        #[arg(long, value_delimiter = ',')]
        udp: Vec<u16>,
    },
    /// Connects and prints what answered: `<listener's port> <original destination>`.
    Tcp { address: SocketAddr },
    /// Sends an HTTP/1.1 request and prints all that comes back.
    Http { address: SocketAddr, path: String },
    /// Runs the sidecar, its settings in the environment, until its standard input ends.
    Sidecar,
    /// Sends a datagram and prints what answered: `<listener's port>`.
    Udp { address: SocketAddr },
    /// Runs linnet-init with these arguments.
    #[command(disable_help_flag = true)]
    Init {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Role::parse() {
        Role::Serve { tcp, udp } => serve(&tcp, &udp),
        Role::Tcp { address } => ask_tcp(address),
        Role::Http { address, path } => ask_http(address, &path),
        Role::Sidecar => sidecar(),
        Role::Udp { address } => ask_udp(address),
        Role::Init { arguments } => {
            let line = std::iter::once("linnet-init".to_owned()).chain(arguments);
            return linnet_init::run(&linnet_init::settings::Args::parse_from(line));
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(tcp: &[u16], udp: &[u16]) -> io::Result<()> {
    let any = || ["0.0.0.0", "::"].map(|any| any.parse::<IpAddr>().expect("an address literal"));
    for &port in tcp {
        for address in any() {
            let listener: TcpListener = bound(SocketAddr::new(address, port), Type::STREAM)?.into();
            thread::spawn(move || answer_tcp(&listener, port));
        }
    }
    for &port in udp {
        for address in any() {
            let socket: UdpSocket = bound(SocketAddr::new(address, port), Type::DGRAM)?.into();
            thread::spawn(move || answer_udp(&socket, port));
        }
    }
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // SO_ORIGINAL_DST answers per family, so each family listens for itself.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(128)?;
    }
    Ok(socket)
}

fn answer_tcp(listener: &TcpListener, port: u16) {
    for connection in listener.incoming() {
        let answered = connection.and_then(|mut stream| {
            let original = original_destination(&stream)?;
            writeln!(stream, "{port} {original}")
        });
        if let Err(error) = answered {
            eprintln!("port {port}: {error}");
        }
    }
}

/// Where the kernel says the connection was headed. Where no rules are in
/// force it keeps no record, and the destination is the local address.
fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let local = stream.local_addr()?;
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    Ok(original
        .ok()
        .and_then(|address| address.as_socket())
        .unwrap_or(local))
}

fn answer_udp(socket: &UdpSocket, port: u16) {
    let mut datagram = [0; 512];
    loop {
        let answered = socket
            .recv_from(&mut datagram)
            .and_then(|(_, from)| socket.send_to(format!("{port}\n").as_bytes(), from));
        if let Err(error) = answered {
            eprintln!("port {port}: {error}");
        }
    }
}

fn sidecar() -> io::Result<()> {
    let config =
        Config::read(linnet_runtime::settings::Settings::of_process()).map_err(io::Error::other)?;
    let log = linnet_runtime::logging::init("warn");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let building = config.build(linnet_proxy::server::Deps { log });
    let _running = runtime.block_on(building).map_err(io::Error::other)?;
    println!("ready");
    let ended = runtime.spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()).map(drop));
    runtime.block_on(ended)?
}

fn ask_tcp(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    print_answer(&mut stream)
}

fn ask_http(address: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n");
    // It may be closed before all is sent; what was answered is there all the same.
    let _ = stream.write_all(request.as_bytes());
    print_answer(&mut stream)
}

/// What comes until the other side closes; a reset after it is an end as well.
fn print_answer(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
        _ => print!("{}", String::from_utf8_lossy(&answer)),
    }
    Ok(())
}

fn ask_udp(address: SocketAddr) -> io::Result<()> {
    let local = if address.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    socket.send(b"who answers?")?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    print!("{}", String::from_utf8_lossy(&answer[..length]));
    Ok(())
}

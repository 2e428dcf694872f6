//! What can go wrong, in terms of what to change in the pod or on the node.

use std::io;

use super::Backend;
use crate::plan::Family;

/// Why the rules are not in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image lacks a program.
    #[error(
        "{program} is not installed: use Linnet's init image, or install iptables with its nft and legacy \
         programs in this one"
    )]
    MissingProgram {
        /// Its name.
        program: String,
    },
    /// The container may not change rules.
    #[error(
        "{program} may not change this network namespace ({detail}): the init container needs \
         securityContext.capabilities.add [NET_ADMIN, NET_RAW] and runAsUser 0; where Pod Security \
         admission took them away, label the namespace pod-security.kubernetes.io/enforce=privileged"
    )]
    NotPermitted {
        /// The program.
        program: String,
        /// What it printed.
        detail: String,
    },
    /// The node's kernel lacks a part.
    #[error(
        "{program}: the node's kernel lacks a part of address translation ({detail}); load it on the node: \
         `modprobe -a {modules}`, or choose the other --backend"
    )]
    Kernel {
        /// The program.
        program: String,
        /// What it printed.
        detail: String,
        /// The modules it needs.
        modules: &'static str,
    },
    /// The program refused for another reason.
    #[error(
        "{program} failed ({detail}); run linnet-init with --dry-run to see the rules it was given"
    )]
    Refused {
        /// The program.
        program: String,
        /// What it printed.
        detail: String,
    },
    /// The program could not be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The rules were accepted, yet are not there when read back.
    #[error(
        "{family} rules were accepted by {backend} but are not all there when read back; another program in \
         this pod may be changing the nat table: let only one init container do so"
    )]
    NotInPlace {
        /// The family.
        family: Family,
        /// The backend.
        backend: Backend,
    },
    /// Neither backend works.
    #[error("neither backend works: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; and "))]
    NoBackend(Vec<Error>),
}

const NFT_MODULES: &str = "nf_tables nft_compat nft_chain_nat xt_REDIRECT xt_owner xt_tcpudp";
const LEGACY_V4_MODULES: &str = "iptable_nat xt_REDIRECT xt_owner xt_tcpudp";
const LEGACY_V6_MODULES: &str = "ip6table_nat xt_REDIRECT xt_owner xt_tcpudp";

/// What the programs print without the capability.
const NOT_PERMITTED: [&str; 3] = [
    "ermission denied",
    "peration not permitted",
    "you must be root",
];
/// What the programs print where the kernel has no such table or extension.
const KERNEL: [&str; 7] = [
    "does not exist",
    "o such file or directory",
    "rotocol not supported",
    "peration not supported",
    "ddress family not supported",
    "unable to initialize table",
    "No chain/target/match by that name",
];

impl Error {
    pub(super) fn starting(program: &str, source: io::Error) -> Self {
        let program = program.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::MissingProgram { program },
            _ => Self::Run { program, source },
        }
    }

    pub(super) fn refused(program: &str, stderr: &str) -> Self {
        let contains = |signs: &[&str]| signs.iter().any(|sign| stderr.contains(sign));
        let (program, detail) = (program.to_owned(), one_line(stderr));
        if contains(&NOT_PERMITTED) {
            Self::NotPermitted { program, detail }
        } else if contains(&KERNEL) {
            let modules = match (program.contains("-nft-"), program.starts_with("ip6")) {
                (true, _) => NFT_MODULES,
                (false, false) => LEGACY_V4_MODULES,
                (false, true) => LEGACY_V6_MODULES,
            };
            Self::Kernel {
                program,
                detail,
                modules,
            }
        } else {
            Self::Refused { program, detail }
        }
    }

    /// The one error of all attempts.
    pub(super) fn from_attempts(mut attempts: Vec<Self>) -> Self {
        match attempts.pop() {
            Some(only) if attempts.is_empty() => only,
            last => {
                attempts.extend(last);
                Self::NoBackend(attempts)
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Try `"))
        .collect::<Vec<_>>()
        .join(" / ")
}

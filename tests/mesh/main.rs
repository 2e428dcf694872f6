//! A mesh in one process, over loopback: no root, no cluster.

mod protocols;
mod strict;
mod support;

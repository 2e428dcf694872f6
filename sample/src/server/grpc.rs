//! The gRPC echo service: unary, server streaming, both ways, and a status on
//! demand, so that trailers are exercised.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::http::Identity;
use crate::echo::echo_server::Echo;
use crate::echo::{EchoReply, EchoRequest};
use crate::health::health_check_response::ServingStatus;
use crate::health::health_server::Health;
use crate::health::{HealthCheckRequest, HealthCheckResponse};

/// Replies a single stream may be asked for.
const MOST_REPLIES: u32 = 100_000;

pub(super) struct EchoService {
    pub(super) identity: Arc<Identity>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

fn reply(identity: &Identity, request: &EchoRequest, sequence: u32) -> Result<EchoReply, Status> {
    if request.fail_with != 0 {
        let code = Code::from_i32(i32::try_from(request.fail_with).unwrap_or(2));
        return Err(Status::new(code, "failed as the request asked"));
    }
    Ok(EchoReply {
        message: request.message.clone(),
        service: identity.name.clone(),
        version: identity.version.clone(),
        pod: identity.pod.clone(),
        sequence,
    })
}

#[tonic::async_trait]
impl Echo for EchoService {
    type ServerStreamStream = Replies;
    type BidiStream = Replies;

    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        reply(&self.identity, request.get_ref(), 0).map(Response::new)
    }

    async fn server_stream(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Replies>, Status> {
        let request = request.into_inner();
        let identity = self.identity.clone();
        let wanted = request.repeat.clamp(1, MOST_REPLIES);
        // A status comes after the replies, in trailers that follow data.
        let fails = (request.fail_with != 0).then_some(wanted);
        let fine = EchoRequest {
            fail_with: 0,
            ..request.clone()
        };
        let replies = stream::iter((0..wanted).chain(fails)).map(move |sequence| {
            let asked = if sequence < wanted { &fine } else { &request };
            reply(&identity, asked, sequence)
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn bidi(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let identity = self.identity.clone();
        let replies = request
            .into_inner()
            .zip(stream::iter(0u32..))
            .map(move |(request, sequence)| reply(&identity, &request?, sequence));
        Ok(Response::new(Box::pin(replies)))
    }
}

/// Answers the kubelet's gRPC probe: serving, for every service it may name.
#[derive(Clone, Copy)]
pub(super) struct HealthService;

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = ServingStatus::Serving.into();
        Ok(Response::new(HealthCheckResponse { status }))
    }
}

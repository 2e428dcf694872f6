//! Requests through the outbound stack to servers on loopback.

mod age;
mod balancing;
mod blame;
mod clocks;
mod connections;
mod cors;
mod flags;
mod heads;
mod messages;
mod origination;
mod resilience;
mod retries;
mod rules;
mod streams;
mod support;
mod two_sidecars;
mod unavailable;

/// What a request moves about; each kilobyte more is a hundred instructions.
#[test]
fn a_request_s_state_is_small() {
    fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }
    let (state, most) = (size(super::Route::send), 3600);
    assert!(state <= most, "{state} bytes, of {most}");
}

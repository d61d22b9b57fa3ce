//! The guard as a `tower` layer: any service behind it is called only while the circuit lets it.
//!
//! Admission happens in `call`, not in `poll_ready`: a permit taken for a call that is never made would be a cancelled
//! probe. Rejected: mapping rejections into the service's own response, which only its user knows how to make.

use crate::guard::{Guard, Rejected, Verdict};
use futures_util::future::BoxFuture;
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// Guards the services it is laid around. `judge` turns each result into a verdict.
#[derive(Debug, Clone)]
pub struct GuardLayer<J> {
    guard: Guard,
    judge: J,
}

impl<J> GuardLayer<J> {
    /// All services of this layer share the guard.
    pub fn new(guard: Guard, judge: J) -> Self {
        Self { guard, judge }
    }
}

impl<S, J: Clone> Layer<S> for GuardLayer<J> {
    type Service = Guarded<S, J>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded {
            inner,
            guard: self.guard.clone(),
            judge: self.judge.clone(),
        }
    }
}

/// A service behind a guard. Dropping a response's future cancels its permit.
#[derive(Debug, Clone)]
pub struct Guarded<S, J> {
    inner: S,
    guard: Guard,
    judge: J,
}

/// Why a guarded service did not answer.
#[derive(Debug, thiserror::Error)]
pub enum GuardedError<E> {
    /// The call was not made.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The call was made and failed.
    #[error("{0}")]
    Service(#[source] E),
}

impl<S, J, R> Service<R> for Guarded<S, J>
where
    S: Service<R> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
    J: Fn(&Result<S::Response, S::Error>) -> Verdict + Clone + Send + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = GuardedError<S::Error>;
    type Future = BoxFuture<'static, Result<S::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(GuardedError::Service)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // The service that was ready is the one to call; its clone may not be.
        let clone = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, clone);
        let (guard, judge) = (self.guard.clone(), self.judge.clone());
        Box::pin(async move {
            let permit = guard.acquire().await?;
            let result = ready.call(request).await;
            permit.record(judge(&result));
            result.map_err(GuardedError::Service)
        })
    }
}

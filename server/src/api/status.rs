//! The status model over gRPC, for everybody with a role.

use std::time::Duration;

use jiff::SignedDuration;
use refit_proto::{
    names::{Product, Version},
    wire::{self, status_server::Status as StatusService},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, ApiError, Shared, call::Call};
use crate::{
    access::ANY_ROLE,
    explain, impact,
    status::{StatusError, StatusSource as _},
    status_source::StatusReader,
    store::Store,
};

/// The shortest time between two answers of a watch, however much happens.
const PACE: Duration = Duration::from_millis(250);

#[tonic::async_trait]
impl StatusService for Api {
    type WatchFleetStream = ReceiverStream<Result<wire::FleetStatus, Status>>;

    async fn get_fleet(
        &self,
        request: Request<wire::GetFleetRequest>,
    ) -> Result<Response<wire::FleetStatus>, Status> {
        let call = Call::begin(&self.0, &request, "status read")?;
        let result = self.fleet_status(&call, &request.into_inner()).await;
        self.finish(&call, result).await
    }

    async fn list_hosts(
        &self,
        request: Request<wire::ListHostsRequest>,
    ) -> Result<Response<wire::ListHostsReply>, Status> {
        let call = Call::begin(&self.0, &request, "host list")?;
        let result = self.host_list(&call, request.into_inner()).await;
        self.finish(&call, result).await
    }

    async fn explain_host(
        &self,
        request: Request<wire::ExplainHostRequest>,
    ) -> Result<Response<wire::HostExplanation>, Status> {
        let call = Call::begin(&self.0, &request, "host explain")?;
        let message = request.into_inner();
        let asked = move |shared: &Shared, store: &dyn Store, call: &Call| {
            call.member(store, ANY_ROLE)?;
            explain::host(shared, store, &message.host)
        };
        let result = self.work(&call, asked).await;
        self.finish(&call, result).await
    }

    async fn get_impact(
        &self,
        request: Request<wire::GetImpactRequest>,
    ) -> Result<Response<wire::Impact>, Status> {
        let call = Call::begin(&self.0, &request, "release impact")?;
        let message = request.into_inner();
        let asked = move |shared: &Shared, store: &dyn Store, call: &Call| {
            call.member(store, ANY_ROLE)?;
            impact::impact(shared, store, &question(&message)?)
        };
        let result = self.work(&call, asked).await;
        self.finish(&call, result).await
    }

    async fn watch_fleet(
        &self,
        request: Request<wire::GetFleetRequest>,
    ) -> Result<Response<Self::WatchFleetStream>, Status> {
        let mut call = Call::begin(&self.0, &request, "status watch")?;
        let message = request.into_inner();
        let mut wake = self.0.store.store().wake();
        wake.mark_changed();
        // The first answer also tells whether the caller is let in.
        let first = self.fleet_status(&call, &message).await;
        let first = self.finish(&call, first).await?.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        let (api, mut stop) = (self.clone(), self.0.stop.clone());
        tokio::spawn(async move {
            let mut next = Ok(first);
            loop {
                let last = next.is_err();
                if sender.send(next).await.is_err() || last {
                    return;
                }
                tokio::time::sleep(PACE).await;
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = sender.closed() => return,
                    changed = wake.changed() => if changed.is_err() { return },
                }
                // Asked anew each time: somebody who is revoked sees no more.
                call.now = api.0.clock.now();
                let status = api.fleet_status(&call, &message).await;
                next = api.finish(&call, status).await.map(Response::into_inner);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Api {
    async fn fleet_status(
        &self,
        call: &Call,
        message: &wire::GetFleetRequest,
    ) -> Result<wire::FleetStatus, ApiError> {
        self.work(call, |_, store, call| call.member(store, ANY_ROLE).map(drop)).await?;
        let product = match message.product.as_str() {
            "" => None,
            product => Some(Product::parse(product)?),
        };
        Ok(StatusReader(self.0.clone()).fleet(product.as_ref()).await?)
    }

    async fn host_list(
        &self,
        call: &Call,
        message: wire::ListHostsRequest,
    ) -> Result<wire::ListHostsReply, ApiError> {
        self.work(call, |_, store, call| call.member(store, ANY_ROLE).map(drop)).await?;
        Ok(StatusReader(self.0.clone()).hosts(message).await?)
    }
}

/// Longest update that anybody plans with, seconds.
const LONGEST_UPDATE: u64 = 7 * 24 * 3600;

fn question(message: &wire::GetImpactRequest) -> Result<impact::Question, ApiError> {
    let seconds = message.update_seconds;
    if seconds > LONGEST_UPDATE {
        let text = format!("an update of {seconds} s\nhelp: use at most {LONGEST_UPDATE} s");
        return Err(ApiError::Invalid(text));
    }
    Ok(impact::Question {
        product: Product::parse(&message.product)?,
        version: Version::parse(&message.version)?,
        update: (seconds > 0).then(|| SignedDuration::from_secs(seconds.cast_signed())),
    })
}

impl From<StatusError> for ApiError {
    fn from(error: StatusError) -> ApiError {
        match error {
            StatusError::BadQuestion(text) => ApiError::Invalid(text),
            StatusError::Unavailable => ApiError::Unavailable,
        }
    }
}

//! What a stranger's tools find out by themselves: health without a certificate, and which services there
//! are with one.

use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::fleet::{Caller, Fleet};

const SERVICES: [&str; 5] = [
    "refit.v1.Admin",
    "refit.v1.Agent",
    "refit.v1.Enrollment",
    "refit.v1.Repository",
    "refit.v1.Status",
];

#[tokio::test]
async fn every_service_says_that_it_serves() {
    let fleet = Fleet::start().await;
    let mut health = HealthClient::new(fleet.channel(None));
    for service in SERVICES.into_iter().chain([""]) {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest { service: "refit.v1.Nobody".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services_to_whoever_has_a_certificate_and_to_nobody_else() {
    let fleet = Fleet::start().await;
    let alice = fleet.alice().await;
    let found = services(&fleet, Some(&alice)).await.unwrap();
    for service in SERVICES {
        assert!(found.iter().any(|name| name == service), "{service} is not in {found:?}");
    }
    assert_eq!(services(&fleet, None).await.unwrap_err().code(), Code::Unauthenticated);
}

async fn services(fleet: &Fleet, caller: Option<&Caller>) -> Result<Vec<String>, tonic::Status> {
    let mut reflection = ServerReflectionClient::new(fleet.channel(caller));
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        reflection.server_reflection_info(tokio_stream::once(request)).await?.into_inner();
    let answer = answers.next().await.unwrap()?.message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    Ok(list.service.into_iter().map(|service| service.name).collect())
}

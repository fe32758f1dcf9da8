//! Servers of both services: from HTTP/2 requests to the methods of a trait.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::codegen::http;
use tonic::{Request, Status};

use super::MAX_MESSAGE_BYTES;
use super::calls::{self, Call};
use super::messages::{
    DeviceMessage, Empty, MapperRegisterRequest, MapperRegisterResponse, ModelMessage, ObjectName,
    ReportDeviceStatesRequest, ReportDeviceStatusRequest,
};
use crate::wire::grpc::{self, Answer, HttpRequest};

/// What edgecore answers to mappers. Requests carry tonic's `UdsConnectInfo` in their extensions.
pub trait DeviceManager: Send + Sync + 'static {
    fn register(
        &self,
        request: Request<MapperRegisterRequest>,
    ) -> impl Future<Output = Result<MapperRegisterResponse, Status>> + Send;
    fn report_status(
        &self,
        request: Request<ReportDeviceStatusRequest>,
    ) -> impl Future<Output = Result<(), Status>> + Send;
    fn report_states(
        &self,
        request: Request<ReportDeviceStatesRequest>,
    ) -> impl Future<Output = Result<(), Status>> + Send;
}

/// What a mapper answers to edgecore.
pub trait DeviceMapper: Send + Sync + 'static {
    fn register_device(
        &self,
        request: DeviceMessage,
    ) -> impl Future<Output = Result<ObjectName, Status>> + Send;
    fn update_device(&self, request: DeviceMessage) -> impl Future<Output = Result<(), Status>> + Send;
    fn remove_device(&self, request: ObjectName) -> impl Future<Output = Result<(), Status>> + Send;
    fn get_device(&self, request: ObjectName) -> impl Future<Output = Result<DeviceMessage, Status>> + Send;
    fn create_model(&self, request: ModelMessage) -> impl Future<Output = Result<ObjectName, Status>> + Send;
    fn update_model(&self, request: ModelMessage) -> impl Future<Output = Result<(), Status>> + Send;
    fn remove_model(&self, request: ObjectName) -> impl Future<Output = Result<(), Status>> + Send;
}

/// Runs one call, its messages bounded.
fn unary<C, F, W>(http: HttpRequest, method: F) -> Answer
where
    C: Call,
    F: FnOnce(Request<C::Request>) -> W + Send + 'static,
    W: Future<Output = Result<C::Response, Status>> + Send + 'static,
{
    grpc::unary(http, MAX_MESSAGE_BYTES, method)
}

fn unknown() -> Answer {
    grpc::unknown("no such call in package v1beta1")
}

/// Serves a [`DeviceManager`].
pub struct ManagerServer<T>(Arc<T>);

impl<T> ManagerServer<T> {
    #[must_use]
    pub fn new(inner: Arc<T>) -> Self {
        Self(inner)
    }
}

impl<T> Clone for ManagerServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: DeviceManager> tower::Service<HttpRequest> for ManagerServer<T> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, http: HttpRequest) -> Answer {
        let to = Arc::clone(&self.0);
        match http.uri().path() {
            calls::MapperRegister::PATH => {
                unary::<calls::MapperRegister, _, _>(
                    http,
                    |request| async move { to.register(request).await },
                )
            }
            calls::ReportDeviceStatus::PATH => {
                unary::<calls::ReportDeviceStatus, _, _>(http, |request| async move {
                    to.report_status(request).await.map(|()| Empty {})
                })
            }
            calls::ReportDeviceStates::PATH => {
                unary::<calls::ReportDeviceStates, _, _>(http, |request| async move {
                    to.report_states(request).await.map(|()| Empty {})
                })
            }
            _ => unknown(),
        }
    }
}

/// Serves a [`DeviceMapper`].
pub struct MapperServer<T>(Arc<T>);

impl<T> MapperServer<T> {
    #[must_use]
    pub fn new(inner: Arc<T>) -> Self {
        Self(inner)
    }
}

impl<T> Clone for MapperServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: DeviceMapper> tower::Service<HttpRequest> for MapperServer<T> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, http: HttpRequest) -> Answer {
        let to = Arc::clone(&self.0);
        match http.uri().path() {
            calls::RegisterDevice::PATH => unary::<calls::RegisterDevice, _, _>(http, |request| async move {
                to.register_device(request.into_inner()).await
            }),
            calls::UpdateDevice::PATH => unary::<calls::UpdateDevice, _, _>(http, |request| async move {
                to.update_device(request.into_inner()).await.map(|()| Empty {})
            }),
            calls::RemoveDevice::PATH => unary::<calls::RemoveDevice, _, _>(http, |request| async move {
                to.remove_device(request.into_inner()).await.map(|()| Empty {})
            }),
            calls::GetDevice::PATH => unary::<calls::GetDevice, _, _>(http, |request| async move {
                to.get_device(request.into_inner()).await
            }),
            calls::CreateDeviceModel::PATH => {
                unary::<calls::CreateDeviceModel, _, _>(http, |request| async move {
                    to.create_model(request.into_inner()).await
                })
            }
            calls::UpdateDeviceModel::PATH => {
                unary::<calls::UpdateDeviceModel, _, _>(http, |request| async move {
                    to.update_model(request.into_inner()).await.map(|()| Empty {})
                })
            }
            calls::RemoveDeviceModel::PATH => {
                unary::<calls::RemoveDeviceModel, _, _>(http, |request| async move {
                    to.remove_model(request.into_inner()).await.map(|()| Empty {})
                })
            }
            _ => unknown(),
        }
    }
}

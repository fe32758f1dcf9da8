//! The calls of both services: path and messages of each once, for client and server.

use prost::Message;

use super::messages::{
    DeviceMessage, Empty, MapperRegisterRequest, MapperRegisterResponse, ModelMessage, ObjectName,
    ReportDeviceStatesRequest, ReportDeviceStatusRequest,
};

/// A unary call: where it goes and what it carries.
pub trait Call {
    type Request: Message + Default + 'static;
    type Response: Message + Default + 'static;
    const PATH: &'static str;
}

macro_rules! calls {
    ($service:literal: $($call:ident($request:ty) -> $response:ty;)+) => {
        $(
            pub struct $call;
            impl Call for $call {
                type Request = $request;
                type Response = $response;
                const PATH: &'static str = concat!("/v1beta1.", $service, "/", stringify!($call));
            }
        )+
    };
}

calls! { "DeviceManagerService":
    MapperRegister(MapperRegisterRequest) -> MapperRegisterResponse;
    ReportDeviceStatus(ReportDeviceStatusRequest) -> Empty;
    ReportDeviceStates(ReportDeviceStatesRequest) -> Empty;
}

calls! { "DeviceMapperService":
    RegisterDevice(DeviceMessage) -> ObjectName;
    UpdateDevice(DeviceMessage) -> Empty;
    RemoveDevice(ObjectName) -> Empty;
    GetDevice(ObjectName) -> DeviceMessage;
    CreateDeviceModel(ModelMessage) -> ObjectName;
    UpdateDeviceModel(ModelMessage) -> Empty;
    RemoveDeviceModel(ObjectName) -> Empty;
}

"""A KubeEdge mapper made of grpcio and descriptors written here from the protocol's tables: shares no
code with ours, so that both sides can only meet on the wire.

usage: dmi_peer.py EDGECORE_SOCKET OWN_SOCKET [--uid UID]
Prints one JSON line for its registration's answer and one for each call edgecore makes. Commands on
standard input, each answered by a line: `value DEVICE PROPERTY VALUE`, `state DEVICE STATE`,
`flood DEVICE COUNT`.
"""

import json
import os
import sys
import threading
from concurrent import futures

import grpc
import grpc._channel  # now: after --uid its file may be out of reach
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, json_format, message_factory, wrappers_pb2

SCALARS = {"string": 9, "bool": 8, "int64": 3, "int32": 5, "bytes": 12}
# Message: fields as "name:type", in order of their tags from 1; "name=tag:type" where they skip.
# A leading * repeats, a leading % is a map from string.
MESSAGES = {
    "MapperRegisterRequest": "withData:bool mapper:MapperInfo",
    "MapperRegisterResponse": "modelList:*DeviceModel deviceList:*Device",
    "MapperInfo": "name:string version:string api_version:string protocol:string address:bytes state:string",
    "ReportDeviceStatusRequest": "deviceName:string reportedDevice:DeviceStatus deviceNamespace:string",
    "ReportDeviceStatusResponse": "",
    "ReportDeviceStatesRequest": "deviceName:string deviceNamespace:string state:string",
    "ReportDeviceStatesResponse": "",
    "RegisterDeviceRequest": "device:Device",
    "RegisterDeviceResponse": "deviceName:string deviceNamespace:string",
    "RemoveDeviceRequest": "deviceName:string deviceNamespace:string",
    "RemoveDeviceResponse": "",
    "UpdateDeviceRequest": "device:Device",
    "UpdateDeviceResponse": "",
    "CreateDeviceModelRequest": "model:DeviceModel",
    "CreateDeviceModelResponse": "deviceModelName:string deviceModelNamespace:string",
    "RemoveDeviceModelRequest": "modelName:string modelNamespace:string",
    "RemoveDeviceModelResponse": "",
    "UpdateDeviceModelRequest": "model:DeviceModel",
    "UpdateDeviceModelResponse": "",
    "DeviceStatus": "twins:*Twin reportToCloud:bool reportCycle:int64",
    "Twin": "propertyName:string observedDesired:TwinProperty reported:TwinProperty",
    "TwinProperty": "value:string metadata:%string",
    "Device": "name:string spec:DeviceSpec status:DeviceStatus namespace:string",
    "DeviceSpec": "deviceModelReference:string protocol:ProtocolConfig properties:*DeviceProperty methods:*DeviceMethod",
    "DeviceMethod": "name:string description:string propertyNames:*string",
    "DeviceProperty": "name:string desired:TwinProperty visitors:VisitorConfig reportCycle:int64 collectCycle:int64 "
    "reportToCloud:bool pushMethod:PushMethod",
    "ProtocolConfig": "protocolName:string configData:CustomizedValue",
    "VisitorConfig": "protocolName:string configData:CustomizedValue",
    "CustomizedValue": "data:%Any",
    "PushMethod": "http:PushMethodHTTP mqtt:PushMethodMQTT dbMethod:DBMethod otel:PushMethodOTEL "
    "anomalyDetection:CustomizedValue",
    "PushMethodHTTP": "hostname:string port:int64 requestpath:string timeout:int64",
    "PushMethodMQTT": "address:string topic:string qos:int32 retained:bool",
    "PushMethodOTEL": "endpointURL:string",
    "DBMethod": "influxdb2:DBMethodInfluxdb2",
    "DBMethodInfluxdb2": "influxdb2ClientConfig:Influxdb2ClientConfig influxdb2DataConfig:Influxdb2DataConfig",
    "Influxdb2ClientConfig": "url:string org:string bucket:string",
    "Influxdb2DataConfig": "measurement:string tag:%string fieldKey:string",
    "DeviceModel": "name:string spec:DeviceModelSpec namespace:string",
    "DeviceModelSpec": "properties:*ModelProperty",
    "ModelProperty": "name:string description:string type:string accessMode:string minimum:string maximum:string "
    "unit:string",
}
MAPPER_CALLS = [
    "RegisterDevice", "RemoveDevice", "UpdateDevice", "CreateDeviceModel", "RemoveDeviceModel", "UpdateDeviceModel",
]


def set_type(field, kind):
    if kind in SCALARS:
        field.type = SCALARS[kind]
    else:
        field.type = 11
        field.type_name = ".google.protobuf.Any" if kind == "Any" else f".v1beta1.{kind}"


def classes():
    file = descriptor_pb2.FileDescriptorProto(name="dmi.proto", package="v1beta1", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for tag, text in enumerate(fields.split(), start=1):
            field_name, kind = text.split(":")
            field = message.field.add(name=field_name, number=tag, label=3 if kind[0] in "*%" else 1)
            if kind.startswith("%"):
                entry = message.nested_type.add(name=f"{field_name[0].upper()}{field_name[1:]}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=9)
                set_type(entry.field.add(name="value", number=2, label=1), kind[1:])
                field.type, field.type_name = 11, f".v1beta1.{name}.{entry.name}"
            else:
                set_type(field, kind.lstrip("*"))
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1beta1.{name}")) for name in MESSAGES}


TYPES = classes()
WRAPPERS = wrappers_pb2.StringValue, any_pb2.Any  # registers the wrappers for JSON


def say(value):
    print(json.dumps(value, sort_keys=True), flush=True)


def shown(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


class Mapper(grpc.GenericRpcHandler):
    def service(self, details):
        service, _, call = details.method.lstrip("/").partition("/")
        if service != "v1beta1.DeviceMapperService" or call not in MAPPER_CALLS:
            return None

        def handle(request, _context):
            say({"call": call, "request": shown(request)})
            return TYPES[f"{call}Response"]()

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=TYPES[f"{call}Request"].FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )


def main():
    edgecore, own = sys.argv[1:3]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((Mapper(),))
    server.add_insecure_port(f"unix:{own}")
    server.start()
    if "--uid" in sys.argv:
        os.setgroups([])
        os.setuid(int(sys.argv[sys.argv.index("--uid") + 1]))
    channel = grpc.insecure_channel(f"unix:{edgecore}")

    def call(name, **fields):
        method = channel.unary_unary(
            f"/v1beta1.DeviceManagerService/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=TYPES[f"{name}Response"].FromString,
        )
        try:
            answer = method(TYPES[f"{name}Request"](**fields), timeout=30, wait_for_ready=True)
            return {"ok": shown(answer)}
        except grpc.RpcError as err:
            return {"code": err.code().name, "details": err.details()}

    info = TYPES["MapperInfo"](
        name="peer", version="v1", api_version="v1beta1", protocol="peer", address=own.encode(), state="OK"
    )
    say(call("MapperRegister", withData=True, mapper=info))

    def report(device, name, value):
        twin = TYPES["Twin"](
            propertyName=name,
            observedDesired=TYPES["TwinProperty"](value=value, metadata={"timestamp": "1"}),
            reported=TYPES["TwinProperty"](value=value, metadata={"timestamp": "1", "type": "int"}),
        )
        status = TYPES["DeviceStatus"](twins=[twin])
        return call("ReportDeviceStatus", deviceName=device, deviceNamespace="default", reportedDevice=status)

    for line in sys.stdin:
        verb, device, *rest = line.split()
        if verb == "value":
            say(report(device, *rest))
        elif verb == "state":
            say(call("ReportDeviceStates", deviceName=device, deviceNamespace="default", state=rest[0]))
        elif verb == "flood":
            # More at once than KubeEdge's rate limit (burst 100) lets through.
            with futures.ThreadPoolExecutor(max_workers=64) as pool:
                answers = list(pool.map(lambda n: report(device, "temperature", str(n)), range(int(rest[0]))))
            say(sum("ok" in answer for answer in answers))


threading.current_thread().name = "main"
main()

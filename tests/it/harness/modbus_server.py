"""A Modbus TCP server that is not ours, for the tests of the Modbus mapper.

usage: modbus_server.py PORT   (0 takes a free one; the first line printed is the port)
It answers as units 1 and 7, with the same tables.
Commands on standard input, one a line, each answered by one line of JSON:
  set TABLE OFFSET VALUE...    TABLE is coil, discrete, holding or input
  get TABLE OFFSET COUNT
"""

import asyncio
import json
import socket
import sys

from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import ModbusTcpServer

CODES = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


async def commands(device):
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        verb, table, offset, *numbers = line
        code, offset, numbers = CODES[table], int(offset), [int(number) for number in numbers]
        if verb == "set":
            values = [bool(number) for number in numbers] if code < 3 else numbers
            device.setValues(code, offset, values)
            answer = "ok"
        else:
            answer = [int(value) for value in device.getValues(code, offset, numbers[0])]
        print(json.dumps(answer), flush=True)


async def main():
    port = int(sys.argv[1])
    if port == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    # One more than the highest address: a sequential block starts at 1.
    blocks = [ModbusSequentialDataBlock(1, [0] * 200) for _ in CODES]
    device = ModbusDeviceContext(di=blocks[1], co=blocks[0], hr=blocks[2], ir=blocks[3])
    devices = {1: device, 7: device}
    server = ModbusTcpServer(ModbusServerContext(devices=devices, single=False), address=("127.0.0.1", port))
    serving = asyncio.create_task(server.serve_forever())
    while server.transport is None and not serving.done():
        await asyncio.sleep(0.01)
    print(port, flush=True)
    await commands(device)
    await server.shutdown()


asyncio.run(main())

"""Publishers and subscribers of MQTT 3.1.1 and 5 that keep their sessions by the book while the broker dies.

Arguments: port, file. Runs until the file is there; then everything acknowledged must have come, QoS 2 once, in order.
Raw sockets: client libraries resend in ways of their own, which would hide what the broker does.
"""

import collections, os, socket, struct, sys, threading, time

PORT, STOP = int(sys.argv[1]), sys.argv[2]
PATIENCE, WINDOW = 50, 20


def text(value):
    return struct.pack(">H", len(value)) + value.encode()


def packet(first, body):
    length, rest = b"", len(body)
    while True:
        length += bytes([rest & 0x7F | (0x80 if rest > 0x7F else 0)])
        rest >>= 7
        if not rest:
            return bytes([first]) + length + body


class Connection:
    def __init__(self, name, version):
        self.socket = socket.create_connection(("127.0.0.1", PORT), PATIENCE)
        self.rest = b""
        properties = b"\x05\x11" + struct.pack(">I", 1000) if version == 5 else b""
        self.socket.sendall(packet(0x10, text("MQTT") + bytes([version, 0, 0, 0]) + properties + text(name)))
        first, body = self.receive()
        assert first == 0x20 and body[1] == 0, body
        self.present = body[0] == 1

    def receive(self):
        while True:
            for end in range(2, 6):
                if len(self.rest) >= end and not self.rest[end - 1] & 0x80:
                    length = sum((b & 0x7F) << 7 * i for i, b in enumerate(self.rest[1:end]))
                    if len(self.rest) < end + length:
                        break
                    first, body = self.rest[0], self.rest[end:end + length]
                    self.rest = self.rest[end + length:]
                    return first, body
            more = self.socket.recv(65536)
            if not more:
                raise OSError("closed")
            self.rest += more


class Client(threading.Thread):
    def __init__(self, name, version):
        super().__init__(daemon=True)
        self.name, self.version = name, version
        self.connections, self.absent = 0, 0
        self.finished = False

    def run(self):
        while not self.finished:
            try:
                connection = Connection(self.name, self.version)
            except OSError:
                time.sleep(0.02)
                continue
            if self.connections and not connection.present:
                self.absent += 1
            self.connections += 1
            try:
                self.serve(connection)
            except OSError:
                pass


class Publisher(Client):
    def __init__(self, version, qos):
        super().__init__(f"pub-{version}-{qos}", version)
        self.qos, self.next, self.id = qos, 0, 0
        self.open, self.acknowledged = collections.OrderedDict(), []

    def publish(self, connection, id, key, dup):
        properties = b"\0" if self.version == 5 else b""
        body = text(f"kill/{self.qos}") + struct.pack(">H", id) + properties + key.encode()
        connection.socket.sendall(packet(0x30 | self.qos << 1 | dup << 3, body))

    def serve(self, connection):
        for id, (key, released) in self.open.items():
            if released:
                connection.socket.sendall(packet(0x62, struct.pack(">H", id)))
            else:
                self.publish(connection, id, key, 1)
        while True:
            stopping = os.path.exists(STOP)
            while len(self.open) < WINDOW and not stopping:
                self.id = self.id % 65535 + 1
                key = f"{self.version}-{self.qos}-{self.next}"
                self.next += 1
                self.open[self.id] = (key, False)
                self.publish(connection, self.id, key, 0)
            if stopping and not self.open:
                self.finished = True
                return
            first, body = connection.receive()
            id = struct.unpack(">H", body[:2])[0]
            if first >> 4 == 5:
                if id in self.open:
                    self.open[id] = (self.open[id][0], True)
                connection.socket.sendall(packet(0x62, body[:2]))
            elif first >> 4 in (4, 7) and id in self.open:
                self.acknowledged.append(self.open.pop(id)[0])


class Subscriber(Client):
    def __init__(self, version):
        super().__init__(f"sub-{version}", version)
        self.got, self.held, self.ready = [], set(), threading.Event()

    def serve(self, connection):
        if self.connections == 1:
            properties = b"\0" if self.version == 5 else b""
            body = struct.pack(">H", 1) + properties + text("kill/#") + b"\2"
            connection.socket.sendall(packet(0x82, body))
        while True:
            first, body = connection.receive()
            if first >> 4 == 9:
                self.ready.set()
            elif first >> 4 == 3:
                at = 2 + struct.unpack(">H", body[:2])[0]
                id = body[at:at + 2]
                key = body[at + 2 + (1 + body[at + 2] if self.version == 5 else 0):].decode()
                qos = first >> 1 & 3
                if qos == 1 or id not in self.held:
                    self.got.append((qos, key))
                if qos == 2:
                    self.held.add(id)
                connection.socket.sendall(packet(0x40 if qos == 1 else 0x50, id))
            elif first >> 4 == 6:
                self.held.discard(body[:2])
                connection.socket.sendall(packet(0x70, body[:2]))


subscribers = [Subscriber(4), Subscriber(5)]
for subscriber in subscribers:
    subscriber.start()
    assert subscriber.ready.wait(PATIENCE), "not subscribed"
publishers = [Publisher(version, qos) for version in (4, 5) for qos in (1, 2)]
for publisher in publishers:
    publisher.start()
for publisher in publishers:
    publisher.join(3 * PATIENCE)
    assert publisher.finished, f"{publisher.name} has {len(publisher.open)} unacknowledged"
acknowledged = {key for publisher in publishers for key in publisher.acknowledged}
deadline = time.time() + PATIENCE
for subscriber in subscribers:
    while missing := acknowledged - {key for _, key in list(subscriber.got)}:
        assert time.time() < deadline, f"{subscriber.name} lost {len(missing)}: {sorted(missing)[:5]}"
        time.sleep(0.05)
    counts = collections.Counter(key for qos, key in subscriber.got if qos == 2)
    doubled = [key for key, count in counts.items() if count > 1]
    assert not doubled, f"{subscriber.name} has QoS 2 twice: {doubled[:5]}"
    for publisher in publishers:
        start = publisher.name.removeprefix("pub-") + "-"
        numbers = [int(key.rsplit("-", 1)[1]) for key in dict.fromkeys(key for _, key in subscriber.got) if key.startswith(start)]
        assert numbers == sorted(numbers), f"{subscriber.name}: {publisher.name} out of order"
for client in subscribers + publishers:
    assert client.absent == 0, f"{client.name} lost its session"
    assert client.connections > 1, f"{client.name} never came back"
print(len(acknowledged))

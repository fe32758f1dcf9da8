//! A Modbus device for the tests.

use serde_json::Value;

use super::peer::Peer;

/// The unit it answers as.
pub const SLAVE: u8 = 7;

/// pymodbus, an independent Modbus TCP server.
pub struct ModbusServer {
    peer: Peer,
    pub port: String,
}

impl ModbusServer {
    /// Starts it on a port; `0` takes a free one.
    pub fn start(port: &str) -> Self {
        let peer = Peer::start("modbus_server.py", &[port]);
        let port = peer.line();
        Self { peer, port }
    }

    pub fn set(&mut self, table: &str, offset: u16, values: &[u16]) {
        let values: Vec<String> = values.iter().map(u16::to_string).collect();
        assert_eq!(self.peer.ask(&format!("set {table} {offset} {}", values.join(" "))), "\"ok\"");
    }

    pub fn get(&mut self, table: &str, offset: u16, count: usize) -> Value {
        serde_json::from_str(&self.peer.ask(&format!("get {table} {offset} {count}"))).unwrap()
    }
}

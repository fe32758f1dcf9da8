//! The integration tests: real programs, real clients, real sockets.

// What surrounds a test may fail it like the test itself.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod api_socket;
mod attack;
mod bad_input;
mod boards;
mod boards_queries;
mod cluster_faults;
mod cluster_requests;
mod cluster_two;
mod console;
mod console_browser;
mod cri;
mod demo;
mod device_controller;
mod device_faults;
mod device_kinds;
mod devices;
mod dmi;
mod docs_devices;
mod docs_identity;
mod docs_tour;
mod doctor;
mod federate;
mod fleet;
mod golden_cloud;
mod golden_edge;
mod harness;
mod hostile;
mod identity_at_rest;
mod identity_doors;
mod identity_edges;
mod identity_gate;
mod identity_keys;
mod identity_kinds;
mod identity_mqtt;
mod identity_nodes;
mod identity_rotation;
mod identity_workload;
mod keadm;
mod kubectl;
mod kubernetes_manifests;
mod main_job;
mod mapper_modbus;
mod metrics;
mod mqtt_clients;
mod mqtt_outside;
mod neighbours;
mod neighbours_acts;
mod neighbours_nodes;
mod neighbours_stops;
mod network;
mod panics;
mod pods;
mod prometheus_rules;
mod rbac;
mod reader;
mod scenes;
mod scenes_clock;
mod scenes_disk;
mod scenes_fields;
mod scenes_link;
mod scenes_offline;
mod scenes_restore;
mod storm;
mod systemd_units;

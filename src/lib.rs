//! kubeedge-rs: Kubernetes at the edge as a supervised actor system.
//!
//! Layers, each importing only the ones above it (see `ARCHITECTURE.md`, checked by `tests/arch.rs`):
//!
//! - L0 [`model`]: ids, resource keys, envelopes. Data and serde only.
//! - L1 [`wire`], [`config`], [`telemetry`], [`kube`]: frames, files, metrics, Kubernetes semantics.
//! - L2 [`store`], [`identity`], [`cri`], [`mqtt`], [`web`], [`bus`], [`supervise`], [`mapper`], [`console`], [`apiserver`]: what acts on the world.
//! - L3 [`actors`]: one folder per KubeEdge module.
//! - L4 [`app`]: the two programs, wired.

pub mod model;

pub mod config;
pub mod kube;
pub mod telemetry;
pub mod wire;

pub mod apiserver;
pub mod bus;
pub mod console;
pub mod cri;
pub mod identity;
pub mod mapper;
pub mod mqtt;
pub mod store;
pub mod supervise;
pub mod web;

pub mod actors;

pub mod app;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

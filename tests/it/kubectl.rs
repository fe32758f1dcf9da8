//! The real kubectl, several versions, against the embedded API.

use crate::harness::api::{Api, eventually, kubectls};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
  - name: c
    image: busybox:1
";

#[test]
fn pods_from_apply_to_delete() {
    for kubectl in kubectls() {
        let api = Api::start();
        let file = api.file("pod.yaml", POD);
        assert_eq!(api.ok(&kubectl, &["apply", "-f", &file]), "pod/web created\n");
        assert_eq!(api.ok(&kubectl, &["apply", "-f", &file]), "pod/web unchanged\n");
        let table = api.ok(&kubectl, &["get", "pods"]);
        assert!(table.contains("web") && table.contains("Pending"), "{table}");
        assert_eq!(api.ok(&kubectl, &["delete", "-f", &file]), "pod \"web\" deleted\n");
        eventually("gone", || api.ok(&kubectl, &["get", "pods", "-o", "name"]).is_empty());
    }
}

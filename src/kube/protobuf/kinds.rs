//! The kinds that are taken as protobuf. A new one is a line in [`decode`] and a function here.

use k8s_pb::api::authentication::v1::{BoundObjectReference, SelfSubjectReview, TokenRequest};
use k8s_pb::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectRulesReview};
use k8s_pb::api::coordination::v1::Lease;
use k8s_pb::api::core::v1::{
    ConfigMap, Event, Namespace, NamespaceCondition, ObjectReference, Secret, ServiceAccount,
};
use k8s_pb::api::policy::v1::Eviction;
use k8s_pb::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_pb::apimachinery::pkg::apis::meta::v1::{
    DeleteOptions, ManagedFieldsEntry, ObjectMeta, OwnerReference, Preconditions,
};
use prost::Message;
use serde_json::Value;

use super::DecodeError;
use super::json::Object;

const RBAC: &str = "rbac.authorization.k8s.io/v1";

pub fn decode(api_version: &str, kind: &str, raw: &[u8]) -> Result<Value, DecodeError> {
    let object = match (api_version, kind) {
        ("v1", "Namespace") => message(raw).map(namespace),
        ("v1", "ConfigMap") => message(raw).map(config_map),
        ("v1", "Secret") => message(raw).map(secret),
        ("v1", "ServiceAccount") => message(raw).map(service_account),
        ("v1", "Event") => message(raw).map(event),
        ("coordination.k8s.io/v1", "Lease") => message(raw).map(lease),
        ("authentication.k8s.io/v1", "TokenRequest") => message(raw).map(token_request),
        ("authentication.k8s.io/v1", "SelfSubjectReview") => message(raw).map(self_review),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => message(raw).map(access_review),
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => message(raw).map(rules_review),
        ("policy/v1", "Eviction") => message(raw).map(eviction),
        (RBAC, "Role") => message(raw).map(role),
        (RBAC, "ClusterRole") => message(raw).map(cluster_role),
        (RBAC, "RoleBinding") => message(raw).map(role_binding),
        (RBAC, "ClusterRoleBinding") => message(raw).map(cluster_role_binding),
        // Delete options travel under any group.
        (_, "DeleteOptions") => message(raw).map(delete_options),
        _ => {
            let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
            return Err(DecodeError::UnsupportedKind { api_version, kind });
        }
    }?;
    let object = object.text("apiVersion", Some(api_version.to_owned())).text("kind", Some(kind.to_owned()));
    Ok(object.into())
}

fn message<M: Message + Default>(raw: &[u8]) -> Result<M, DecodeError> {
    M::decode(raw).map_err(|error| DecodeError::Malformed(error.to_string()))
}

fn values<T>(items: Vec<T>, convert: fn(T) -> Object) -> Vec<Value> {
    items.into_iter().map(|item| convert(item).into()).collect()
}

fn namespace(from: Namespace) -> Object {
    let condition = |from: NamespaceCondition| {
        Object::default()
            .text("type", from.r#type)
            .text("status", from.status)
            .time("lastTransitionTime", from.last_transition_time)
            .text("reason", from.reason)
            .text("message", from.message)
    };
    let status = from.status.map(|status| {
        Object::default().text("phase", status.phase).list("conditions", values(status.conditions, condition))
    });
    Object::default()
        .object("metadata", from.metadata.map(meta))
        .filled("spec", from.spec.map(|spec| Object::default().texts("finalizers", spec.finalizers)))
        .filled("status", status)
}

fn config_map(from: ConfigMap) -> Object {
    Object::default()
        .object("metadata", from.metadata.map(meta))
        .flag("immutable", from.immutable)
        .map("data", from.data)
        .bytes_map("binaryData", from.binary_data)
}

fn secret(from: Secret) -> Object {
    Object::default()
        .object("metadata", from.metadata.map(meta))
        .flag("immutable", from.immutable)
        .bytes_map("data", from.data)
        .map("stringData", from.string_data)
        .text("type", from.r#type)
}

fn service_account(from: ServiceAccount) -> Object {
    let pull_secrets = values(from.image_pull_secrets, |named| Object::default().text("name", named.name));
    Object::default()
        .object("metadata", from.metadata.map(meta))
        .list("secrets", values(from.secrets, reference))
        .list("imagePullSecrets", pull_secrets)
        .flag("automountServiceAccountToken", from.automount_service_account_token)
}

fn event(from: Event) -> Object {
    let source = from
        .source
        .map(|source| Object::default().text("component", source.component).text("host", source.host));
    let series = from.series.map(|series| {
        Object::default()
            .number("count", series.count)
            .micro_time("lastObservedTime", series.last_observed_time)
    });
    Object::default()
        .object("metadata", from.metadata.map(meta))
        .object("involvedObject", from.involved_object.map(reference))
        .text("reason", from.reason)
        .text("message", from.message)
        .object("source", source)
        .time("firstTimestamp", from.first_timestamp)
        .time("lastTimestamp", from.last_timestamp)
        .count("count", from.count)
        .text("type", from.r#type)
        .micro_time("eventTime", from.event_time)
        .filled("series", series)
        .text("action", from.action)
        .filled("related", from.related.map(reference))
        .text("reportingComponent", from.reporting_component)
        .text("reportingInstance", from.reporting_instance)
}

fn lease(from: Lease) -> Object {
    let spec = from.spec.map(|spec| {
        Object::default()
            .text("holderIdentity", spec.holder_identity)
            .number("leaseDurationSeconds", spec.lease_duration_seconds)
            .micro_time("acquireTime", spec.acquire_time)
            .micro_time("renewTime", spec.renew_time)
            .number("leaseTransitions", spec.lease_transitions)
            .text("strategy", spec.strategy)
            .text("preferredHolder", spec.preferred_holder)
    });
    Object::default().object("metadata", from.metadata.map(meta)).object("spec", spec)
}

fn token_request(from: TokenRequest) -> Object {
    let bound = |from: BoundObjectReference| {
        Object::default()
            .text("kind", from.kind)
            .text("apiVersion", from.api_version)
            .text("name", from.name)
            .text("uid", from.u_id)
    };
    let spec = from.spec.map(|spec| {
        Object::default()
            .texts("audiences", spec.audiences)
            .number("expirationSeconds", spec.expiration_seconds)
            .filled("boundObjectRef", spec.bound_object_ref.map(bound))
    });
    Object::default().object("metadata", from.metadata.map(meta)).object("spec", spec)
}

fn access_review(from: SelfSubjectAccessReview) -> Object {
    let resource = |from: ResourceAttributes| {
        Object::default()
            .text("namespace", from.namespace)
            .text("verb", from.verb)
            .text("group", from.group)
            .text("version", from.version)
            .text("resource", from.resource)
            .text("subresource", from.subresource)
            .text("name", from.name)
    };
    let spec = from.spec.map(|spec| {
        let non_resource = spec
            .non_resource_attributes
            .map(|from| Object::default().text("path", from.path).text("verb", from.verb));
        Object::default()
            .filled("resourceAttributes", spec.resource_attributes.map(resource))
            .filled("nonResourceAttributes", non_resource)
    });
    Object::default().object("metadata", from.metadata.map(meta)).object("spec", spec)
}

fn self_review(from: SelfSubjectReview) -> Object {
    Object::default().object("metadata", from.metadata.map(meta))
}

fn rules_review(from: SelfSubjectRulesReview) -> Object {
    let spec = from.spec.map(|spec| Object::default().text("namespace", spec.namespace));
    Object::default().object("metadata", from.metadata.map(meta)).object("spec", spec)
}

fn role(from: Role) -> Object {
    Object::default().object("metadata", from.metadata.map(meta)).list("rules", values(from.rules, rule))
}

fn cluster_role(from: ClusterRole) -> Object {
    let aggregated = from.aggregation_rule.map(|from| {
        let selectors = values(from.cluster_role_selectors, |from| {
            Object::default().map("matchLabels", from.match_labels).list(
                "matchExpressions",
                values(from.match_expressions, |from| {
                    Object::default()
                        .text("key", from.key)
                        .text("operator", from.operator)
                        .texts("values", from.values)
                }),
            )
        });
        Object::default().list("clusterRoleSelectors", selectors)
    });
    Object::default()
        .object("metadata", from.metadata.map(meta))
        .list("rules", values(from.rules, rule))
        .object("aggregationRule", aggregated)
}

fn rule(from: PolicyRule) -> Object {
    Object::default()
        .texts("verbs", from.verbs)
        .texts("apiGroups", from.api_groups)
        .texts("resources", from.resources)
        .texts("resourceNames", from.resource_names)
        .texts("nonResourceURLs", from.non_resource_ur_ls)
}

fn role_binding(from: RoleBinding) -> Object {
    bound(from.metadata, from.subjects, from.role_ref)
}

fn cluster_role_binding(from: ClusterRoleBinding) -> Object {
    bound(from.metadata, from.subjects, from.role_ref)
}

fn bound(metadata: Option<ObjectMeta>, subjects: Vec<Subject>, role: Option<RoleRef>) -> Object {
    let subject = |from: Subject| {
        Object::default()
            .text("kind", from.kind)
            .text("apiGroup", from.api_group)
            .text("name", from.name)
            .text("namespace", from.namespace)
    };
    let role = role.map(|from| {
        Object::default().text("apiGroup", from.api_group).text("kind", from.kind).text("name", from.name)
    });
    Object::default()
        .object("metadata", metadata.map(meta))
        .list("subjects", values(subjects, subject))
        .object("roleRef", role)
}

fn eviction(from: Eviction) -> Object {
    Object::default()
        .object("metadata", from.metadata.map(meta))
        .object("deleteOptions", from.delete_options.map(delete_options))
}

fn delete_options(from: DeleteOptions) -> Object {
    let preconditions = |from: Preconditions| {
        Object::default().text("uid", from.uid).text("resourceVersion", from.resource_version)
    };
    Object::default()
        .number("gracePeriodSeconds", from.grace_period_seconds)
        .filled("preconditions", from.preconditions.map(preconditions))
        .flag("orphanDependents", from.orphan_dependents)
        .text("propagationPolicy", from.propagation_policy)
        .texts("dryRun", from.dry_run)
}

fn meta(from: ObjectMeta) -> Object {
    let managed = |from: ManagedFieldsEntry| {
        Object::default()
            .text("manager", from.manager)
            .text("operation", from.operation)
            .text("apiVersion", from.api_version)
            .time("time", from.time)
            .text("fieldsType", from.fields_type)
            .raw("fieldsV1", from.fields_v1.and_then(|fields| fields.raw))
            .text("subresource", from.subresource)
    };
    let owner = |from: OwnerReference| {
        Object::default()
            .text("apiVersion", from.api_version)
            .text("kind", from.kind)
            .text("name", from.name)
            .text("uid", from.uid)
            .flag("controller", from.controller)
            .flag("blockOwnerDeletion", from.block_owner_deletion)
    };
    Object::default()
        .text("name", from.name)
        .text("generateName", from.generate_name)
        .text("namespace", from.namespace)
        .text("selfLink", from.self_link)
        .text("uid", from.uid)
        .text("resourceVersion", from.resource_version)
        .count("generation", from.generation)
        .time("creationTimestamp", from.creation_timestamp)
        .time("deletionTimestamp", from.deletion_timestamp)
        .number("deletionGracePeriodSeconds", from.deletion_grace_period_seconds)
        .map("labels", from.labels)
        .map("annotations", from.annotations)
        .list("ownerReferences", values(from.owner_references, owner))
        .texts("finalizers", from.finalizers)
        .list("managedFields", values(from.managed_fields, managed))
}

fn reference(from: ObjectReference) -> Object {
    Object::default()
        .text("kind", from.kind)
        .text("namespace", from.namespace)
        .text("name", from.name)
        .text("uid", from.uid)
        .text("apiVersion", from.api_version)
        .text("resourceVersion", from.resource_version)
        .text("fieldPath", from.field_path)
}

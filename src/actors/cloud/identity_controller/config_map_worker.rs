//! Writing ConfigMaps of namespace `kubeedge`: read, edit, write if nobody else did in between.

use std::time::Duration;

use ::kube::Client;
use ::kube::api::{Api, DynamicObject, PostParams};
use serde_json::json;

use super::NAMESPACE;
use super::sources::{Data, Map};
use crate::actors::cloud::kube_worker::{CallError, in_time, resource};
use crate::supervise::{doubled, spread};

/// Tries when others write at the same time.
const TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Edits a ConfigMap; `edit` says whether it changed something. Made if it is not there. The map as
/// it is then, `None` if there is none and nothing was to be written.
///
/// # Errors
/// [`CallError`], a conflict too when others write all the time.
pub async fn amend(
    client: &Client,
    name: &str,
    edit: impl Fn(&mut Data) -> bool,
) -> Result<Option<Map>, CallError> {
    let mut tries = 0;
    loop {
        match attempt(client, name, &edit).await {
            Err(err) if is_race(&err) && tries < TRIES => {
                tokio::time::sleep(spread(doubled(FIRST_PAUSE, tries, LAST_PAUSE), fastrand::f64())).await;
                tries += 1;
            }
            other => return other,
        }
    }
}

/// Somebody wrote, made or deleted it in between.
fn is_race(err: &CallError) -> bool {
    matches!(err.code(), Some(409 | 404))
}

async fn attempt(
    client: &Client,
    name: &str,
    edit: impl Fn(&mut Data) -> bool,
) -> Result<Option<Map>, CallError> {
    let kind = resource("", "ConfigMap");
    let maps: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
    let params = PostParams::default();
    let Some(mut found) = in_time(maps.get_opt(name)).await? else {
        let mut data = Data::new();
        if !edit(&mut data) {
            return Ok(None);
        }
        let mut made = DynamicObject::new(name, &kind).within(NAMESPACE).data(json!({ "data": data }));
        made.metadata.labels = Some([("app.kubernetes.io/managed-by".into(), "cloudcore".into())].into());
        let result = in_time(maps.create(&params, &made)).await;
        if let Err(err) = &result
            && err.code() == Some(404)
        {
            make_namespace(client).await?;
        }
        return Ok(Some(read(&result?)));
    };
    let mut map = read(&found);
    if edit(&mut map.data) {
        if let Some(fields) = found.data.as_object_mut() {
            fields.insert("data".to_owned(), json!(map.data));
        }
        // With its resourceVersion: a write in between is a conflict.
        map = read(&in_time(maps.replace(name, &params, &found)).await?);
    }
    Ok(Some(map))
}

async fn make_namespace(client: &Client) -> Result<(), CallError> {
    let kind = resource("", "Namespace");
    let namespaces: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    match in_time(namespaces.create(&PostParams::default(), &DynamicObject::new(NAMESPACE, &kind))).await {
        Err(err) if err.code() != Some(409) => Err(err),
        _ => Ok(()),
    }
}

fn read(object: &DynamicObject) -> Map {
    let entries = object.data.get("data").and_then(|data| data.as_object()).into_iter().flatten();
    let data = entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    Map { data, version: object.metadata.resource_version.clone().unwrap_or_default() }
}

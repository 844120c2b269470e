//! Telling StarRocks where to write.

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::cluster::Cluster;
use super::sql;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SourceAddress;
use crate::policy::StarRocksStorage;
use crate::source::SnapshotPlace;

/// The bucket as the cluster reaches it.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// `s3://bucket/…`.
    pub location: String,
    /// The server; AWS if `None`.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Whether the bucket is a part of the path.
    pub path_style: bool,
    /// The cluster's own key.
    pub key: Option<(SecretString, SecretString)>,
}

impl Bucket {
    /// Where the source's repository is, and how the policy says that the cluster gets there.
    pub fn of(place: &SnapshotPlace, storage: &StarRocksStorage) -> Result<Self> {
        let (Some(location), Some(bucket)) = (place.store.location(), place.store.bucket()) else {
            return Err(Error::new(
                ErrorKind::Policy,
                "StarRocks writes its snapshots into a bucket, and the repository is a directory",
            )
            .hint("give the source a repository with `s3`"));
        };
        let key = match (&storage.access_key_id, &storage.secret_access_key) {
            (Some(id), Some(secret)) => Some((id.resolve()?, secret.resolve()?)),
            _ => None,
        };
        Ok(Self {
            location,
            endpoint: storage.endpoint.clone().or_else(|| bucket.endpoint.clone()),
            region: storage.region.clone().or_else(|| bucket.region.clone()),
            path_style: !bucket.virtual_hosted,
            key,
        })
    }

    fn properties(&self) -> Vec<(&'static str, String)> {
        let mut list = Vec::new();
        match &self.key {
            Some((id, secret)) => list.extend([
                ("aws.s3.access_key", id.expose_secret().to_owned()),
                ("aws.s3.secret_key", secret.expose_secret().to_owned()),
            ]),
            None => list.push(("aws.s3.use_instance_profile", "true".to_owned())),
        }
        if let Some(endpoint) = &self.endpoint {
            list.push(("aws.s3.endpoint", endpoint.clone()));
            list.push(("aws.s3.enable_ssl", (!endpoint.starts_with("http://")).to_string()));
        }
        if let Some(region) = &self.region {
            list.push(("aws.s3.region", region.clone()));
        }
        if self.path_style {
            list.push(("aws.s3.enable_path_style_access", "true".to_owned()));
        }
        list
    }
}

/// What StarRocks calls the repository of a source. Another cluster that attaches it has to call it
/// the same.
pub fn name_of(address: &SourceAddress) -> String {
    let text = address.to_string();
    let digest = hex::encode(Sha256::digest(text.as_bytes()));
    let plain: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(46).collect();
    format!("backstay_{plain}_{}", &digest[..8])
}

/// What StarRocks knows of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Absent,
    /// It is there, and leads where it should.
    Here {
        /// The cluster only reads it.
        read_only: bool,
        /// What went wrong lately, by a look that StarRocks takes every ten minutes.
        trouble: Option<String>,
    },
    /// One of this name leads somewhere else.
    Elsewhere {
        /// Where to.
        location: String,
    },
}

/// Looks for the repository.
pub fn find(cluster: &mut Cluster, name: &str, bucket: &Bucket) -> Result<Known> {
    let rows = cluster
        .ask(sql::REPOSITORIES)
        .map_err(|failure| failure.into_error("look at StarRocks' repositories"))?;
    let Some(row) = rows.iter().find(|row| row.text("RepoName") == name) else {
        return Ok(Known::Absent);
    };
    let location = row.text("Location").trim_end_matches('/');
    if location != bucket.location {
        return Ok(Known::Elsewhere { location: location.to_owned() });
    }
    Ok(Known::Here {
        read_only: row.text("IsReadOnly").eq_ignore_ascii_case("true"),
        trouble: row.get("ErrMsg").filter(|text| !text.is_empty()).map(str::to_owned),
    })
}

/// Sees to it that StarRocks has the repository: makes it, attaches one that lies in the bucket, or
/// takes the one that is there. Returns whether the cluster only reads it.
pub fn ensure(cluster: &mut Cluster, name: &str, bucket: &Bucket, read_only: bool) -> Result<bool> {
    match find(cluster, name, bucket)? {
        Known::Here { read_only, .. } => return Ok(read_only),
        Known::Elsewhere { location } => {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the cluster has a repository {name} at {location}, and not at {}",
                    bucket.location
                ),
            )
            .hint(format!(
                "if nobody needs it: `{}` makes StarRocks forget it; what lies in the bucket stays",
                sql::drop_repository(name)
            )));
        }
        Known::Absent => {}
    }
    let statement = sql::create_repository(name, &bucket.location, read_only, &bucket.properties());
    match cluster.submit(&statement) {
        Ok(_) => {}
        // Its reply was lost, or somebody was faster.
        Err(failure) => match find(cluster, name, bucket) {
            Ok(Known::Here { read_only, .. }) => return Ok(read_only),
            _ => {
                return Err(failure
                    .into_error(&format!("make the repository {name} at {}", bucket.location))
                    .hint("the frontends and backends have to reach the bucket themselves: `storage` in the policy says how"));
            }
        },
    }
    Ok(read_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_a_name_that_starrocks_takes() {
        let name = name_of(&SourceAddress::new("data-platform", "warehouse"));
        assert!(name.starts_with("backstay_data_platform_warehouse_"), "{name}");
        assert!(name.len() <= 64);
        assert_ne!(
            name_of(&SourceAddress::new("a-b", "c")),
            name_of(&SourceAddress::new("a", "b-c"))
        );
        let long = "a".repeat(60);
        assert!(name_of(&SourceAddress::new(&long, &long)).len() <= 64);
    }
}

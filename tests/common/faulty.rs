//! A store in memory that lies or fails in one way, at the keys that hold a given text.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What the store does wrong.
#[derive(Debug, Clone, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every create overwrites, and says that it created.
    CreatesOverwrite,
    /// A create of what exists is refused, and overwrites all the same.
    RefusedAndOverwritten,
    /// A create of what exists says that it created, and changes nothing.
    SeveralWinners,
    /// What was written is not listed.
    ListsNothing,
    /// A ranged read gives the whole object.
    IgnoresRanges,
    /// The second part of a multipart upload is taken and forgotten.
    ForgetsSecondPart,
    /// The n-th part of a multipart upload is refused.
    RefusesPart(u32),
    /// Completing a multipart upload fails.
    RefusesComplete,
    /// So many writes are done, and their reply is lost.
    LosesReply(u32),
    /// So many writes are done, and then said to have met an object: a retry met its own write.
    MeetsItself(u32),
    /// So many writes are turned away with 409, and not done.
    Conflicts(u32),
    /// Before a create comes somebody else's object, with this content.
    Taken(&'static str),
    /// Writes lose their last byte.
    DropsLastByte,
    /// Reads fail.
    RefusesReads,
    /// Reads end two bytes early and say nothing.
    ShortReads,
}

/// A fault at keys that hold a text.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<InMemory>,
    state: Mutex<(Fault, String)>,
    count: AtomicU32,
}

impl Faulty {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::default(),
            state: Mutex::default(),
            count: AtomicU32::default(),
        })
    }

    /// From now on `fault` happens at keys that hold `place`.
    pub fn fail(&self, fault: Fault, place: &str) {
        *self.state.lock().unwrap() = (fault, place.to_owned());
        self.count.store(0, Ordering::SeqCst);
    }

    /// How often the fault happened.
    pub fn happened(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    fn fault(&self, key: &Path) -> Fault {
        let state = self.state.lock().unwrap();
        if key.as_ref().contains(&state.1) { state.0.clone() } else { Fault::None }
    }

    fn happens(&self) -> u32 {
        self.count.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        let list = self.inner.list(None).map(|meta| meta.unwrap().location.to_string());
        let mut keys: Vec<String> = futures_block(list.collect());
        keys.sort();
        keys
    }

    /// The content of an object.
    pub fn content(&self, key: &str) -> Bytes {
        let path = Path::from(key);
        futures_block(async { self.inner.get(&path).await.unwrap().bytes().await.unwrap() })
    }

    /// Writes an object behind everybody's back.
    pub fn plant(&self, key: &str, content: impl Into<Bytes>) {
        let (path, content) = (Path::from(key), content.into());
        futures_block(async { self.inner.put(&path, content.into()).await.unwrap() });
    }
}

/// The store in memory never waits, so any executor will do.
fn futures_block<T>(future: impl Future<Output = T>) -> T {
    futures::FutureExt::now_or_never(future).expect("a store in memory answers at once")
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "Faulty", source: text.to_owned().into() }
}

fn exists(path: &Path) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "412 Precondition Failed".into() }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let creates = options.mode == PutMode::Create;
        let overwrite = PutOptions { mode: PutMode::Overwrite, ..options.clone() };
        let present = self.inner.head(path).await.is_ok();
        match self.fault(path) {
            Fault::CreatesOverwrite if creates && present => {
                self.happens();
                self.inner.put_opts(path, payload, overwrite).await
            }
            Fault::RefusedAndOverwritten if creates && present => {
                self.happens();
                self.inner.put_opts(path, payload, overwrite).await?;
                Err(exists(path))
            }
            Fault::SeveralWinners if creates && present => {
                self.happens();
                let extensions = Extensions::default();
                Ok(PutResult { e_tag: None, version: None, extensions })
            }
            Fault::LosesReply(times) if self.happened() < times => {
                self.happens();
                self.inner.put_opts(path, payload, options).await?;
                Err(generic("connection reset by peer"))
            }
            Fault::MeetsItself(times) if self.happened() < times => {
                self.happens();
                self.inner.put_opts(path, payload, options).await?;
                Err(exists(path))
            }
            Fault::Conflicts(times) if self.happened() < times => {
                self.happens();
                Err(generic("409 Conflict: ConditionalRequestConflict"))
            }
            Fault::Taken(content) if creates => {
                self.happens();
                self.inner.put_opts(path, content.into(), overwrite).await?;
                self.inner.put_opts(path, payload, options).await
            }
            Fault::DropsLastByte => {
                self.happens();
                let bytes = Bytes::from(payload);
                let short = bytes.slice(..bytes.len().saturating_sub(1));
                self.inner.put_opts(path, short.into(), options).await
            }
            _ => self.inner.put_opts(path, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(path, options).await?;
        Ok(Box::new(FaultyUpload { inner, fault: self.fault(path), parts: 0 }))
    }

    async fn get_opts(&self, path: &Path, mut options: GetOptions) -> Result<GetResult> {
        match self.fault(path) {
            Fault::RefusesReads => {
                self.happens();
                Err(generic("connection reset by peer"))
            }
            Fault::IgnoresRanges => {
                self.happens();
                options.range = None;
                self.inner.get_opts(path, options).await
            }
            Fault::ShortReads => {
                self.happens();
                let found = self.inner.get_opts(path, options).await?;
                let (meta, range) = (found.meta.clone(), found.range.clone());
                let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
                let bytes = found.bytes().await?;
                let short = bytes.slice(..bytes.len().saturating_sub(2));
                let stream = futures::stream::once(async { Ok(short) }).boxed();
                let payload = GetResultPayload::Stream(stream);
                Ok(GetResult { payload, meta, range, attributes, extensions })
            }
            _ => self.inner.get_opts(path, options).await,
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let state = self.state.lock().unwrap().clone();
        let hidden = move |key: &Path| {
            matches!(state.0, Fault::ListsNothing) && key.as_ref().contains(&state.1)
        };
        self.inner
            .list(prefix)
            .filter(move |meta| {
                let keep = meta.as_ref().map_or(true, |meta| !hidden(&meta.location));
                futures::future::ready(keep)
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    fault: Fault,
    parts: u32,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts += 1;
        match self.fault {
            Fault::ForgetsSecondPart if self.parts == 2 => Box::pin(async { Ok(()) }),
            Fault::RefusesPart(number) if self.parts == number => {
                Box::pin(async { Err(generic("connection reset by peer")) })
            }
            _ => self.inner.put_part(data),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if matches!(self.fault, Fault::RefusesComplete) {
            return Err(generic("500 Internal Server Error"));
        }
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

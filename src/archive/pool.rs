//! Threads that compress the frames of one sequence of bytes, which come back in order.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::frame::FrameEncoder;

/// A frame's plain bytes, and what became of them.
type Packed = (Vec<u8>, Vec<u8>);

struct Task {
    plain: Vec<u8>,
    done: SyncSender<io::Result<Packed>>,
}

/// The threads. Dropping it ends them.
pub struct FramePool {
    tasks: SyncSender<Task>,
    waiting: VecDeque<Receiver<io::Result<Packed>>>,
    threads: usize,
}

impl FramePool {
    /// Starts `threads` threads that compress at zstd `level`.
    pub fn new(level: i32, threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let (tasks, receive) = sync_channel::<Task>(threads);
        let receive = Arc::new(Mutex::new(receive));
        for number in 0..threads {
            let receive = receive.clone();
            let name = format!("compress-{number}");
            // They end when the sender does; nobody needs to wait for them.
            std::thread::Builder::new().name(name).spawn(move || work(level, &receive))?;
        }
        Ok(Self { tasks, waiting: VecDeque::new(), threads })
    }

    /// Hands a frame out.
    pub fn send(&mut self, plain: Vec<u8>) -> io::Result<()> {
        let (done, packed) = sync_channel(1);
        self.tasks.send(Task { plain, done }).map_err(|_| gone())?;
        self.waiting.push_back(packed);
        Ok(())
    }

    /// Whether as many frames are out as keep all threads busy.
    pub fn is_full(&self) -> bool {
        self.waiting.len() > self.threads
    }

    /// The oldest frame that is out; `None` if none is.
    pub fn take(&mut self) -> io::Result<Option<Packed>> {
        let Some(packed) = self.waiting.pop_front() else { return Ok(None) };
        packed.recv().unwrap_or_else(|_| Err(gone())).map(Some)
    }
}

fn gone() -> io::Error {
    io::Error::other("the threads that compress are gone")
}

fn work(level: i32, tasks: &Mutex<Receiver<Task>>) {
    let mut encoder = FrameEncoder::new(level);
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Task { plain, done }) = task else { return };
        let mut packed = Vec::new();
        let result = match &mut encoder {
            Ok(encoder) => encoder.encode(&plain, &mut packed),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        let _ = done.send(result.map(|()| (plain, packed)));
    }
}

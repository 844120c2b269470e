//! Threads that take work from one queue.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// What the threads of a crew take their work from.
pub struct Queue<T>(Arc<Mutex<Receiver<T>>>);

impl<T> Queue<T> {
    /// The next piece of work; `None` when there will be no more.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

/// Starts `workers` threads, and gives what hands work to them: at most `waiting` pieces wait.
///
/// The queue belongs to the threads alone: when the last of them is gone, be it by a panic, handing
/// out fails instead of waiting for ever. They end when the sender is dropped.
pub fn crew<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    workers: usize,
    waiting: usize,
    work: impl Fn(&Queue<T>) + Clone + Send + 'scope,
) -> SyncSender<T> {
    let (send, receive) = sync_channel(waiting);
    let queue = Arc::new(Mutex::new(receive));
    for _ in 0..workers {
        let (queue, work) = (Queue(queue.clone()), work.clone());
        scope.spawn(move || work(&queue));
    }
    send
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crew_that_panics_stops_whoever_hands_out_work() {
        let handed = std::panic::catch_unwind(|| {
            std::thread::scope(|scope| {
                let send = crew(scope, 2, 1, |queue: &Queue<u32>| {
                    queue.take();
                    panic!("a worker that breaks");
                });
                // For ever, if the queue outlived its workers.
                while send.send(1).is_ok() {}
            });
        });
        assert!(handed.is_err(), "the panic is not hidden");
    }
}

//! What an earlier daemon left: slices of the database, their files, and the processes that still run in them.
use super::members::part_of;
use super::{Launcher, Member, Node};
use crate::cdi;
use crate::engine;
use crate::files::SliceFiles;
use crate::mps;
use crate::process::{self, open_pidfd};
use crate::slice::Record;
use cleave_ledger::owner;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

impl Node {
    /// Brings back what the database holds, adopts the processes that are still there, and removes what belongs to
    /// nobody.
    pub fn adopt(self: &Arc<Self>) -> anyhow::Result<()> {
        let records = {
            let mut inner = self.lock();
            inner.draining = inner.store.draining()?;
            inner.store.slices()?
        };
        let ids: HashSet<&str> = records.iter().map(|r| r.id.as_str()).collect();
        let names: HashSet<&str> = records.iter().map(|r| r.name.as_str()).collect();
        for id in self.run.slice_ids()? {
            if !ids.contains(id.as_str()) {
                tracing::info!("removing the files of {id}, which is no slice");
                let _ = std::fs::remove_dir_all(self.run.slice_dir(&id));
            }
        }
        if let Some(dir) = &self.config.cdi_dir {
            cdi::clean(dir, |name| names.contains(name));
        }
        for record in &records {
            if let Err(error) = self.adopt_slice(record) {
                let message = format!("slice {} can't be brought back: {error}", record.name);
                self.lock().event("warning", Some(record), &message);
            }
        }
        // Servers of this daemon's slices are watched on; those of slices that are no more have nobody, and end.
        for folder in self.mps.left() {
            let owner = records.iter().find(|r| engine::domain(r).is_some_and(|key| key.folder() == folder));
            mps::look_after(self, &self.mps.get(&folder, owner.map_or(0, |record| record.owner)));
        }
        let mut inner = self.lock();
        // Now that all are known: which multiprocessors one has depends on the others.
        inner.slices.values_mut().for_each(|live| live.place = None);
        records.iter().for_each(|record| self.settle(&mut inner, &record.id));
        records.iter().for_each(|record| self.write_cdi(&mut inner, record));
        self.arrange(&inner, &(0..self.desks.len()).map(Some).collect::<Vec<_>>());
        let driver = match self.nvml.driver_version() {
            none if none.is_empty() => "without NVIDIA's driver".into(),
            version => format!("with driver {version}"),
        };
        let gpus = self.nvml.gpus().len() + self.others.len();
        let message =
            format!("cleave {} runs {driver}, {gpus} GPUs, {} slices", env!("CARGO_PKG_VERSION"), inner.slices.len());
        inner.event("daemon-started", None, &message);
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    fn adopt_slice(self: &Arc<Self>, record: &Record) -> io::Result<()> {
        let facts = self.facts(&self.lock().store, record);
        let there = self.run.slice_dir(&record.id).exists();
        let files = match SliceFiles::open(&self.run, record, &facts) {
            Some(files) => files,
            None => {
                if there {
                    let message = format!(
                        "the ledger of slice {} is not of this version, or damaged: it was made anew; programs that still run in it are not counted",
                        record.name
                    );
                    self.lock().event("warning", Some(record), &message);
                    std::fs::remove_dir_all(self.run.slice_dir(&record.id))?;
                }
                SliceFiles::create(&self.run, record, &facts)?
            }
        };
        let mut live = self.open_doors(record.clone(), files)?;
        let mut gone = Vec::new();
        let mut watched = Vec::new();
        for (slot, book) in live.files.policy.book.iter().enumerate() {
            let state = book.state.load(SeqCst);
            if state == owner::FREE {
                continue;
            }
            let (pid, start_time) = (book.host_pid.load(SeqCst), book.start_time.load(SeqCst));
            let pidfd = if state == owner::LIVE { open_pidfd(pid, start_time) } else { None };
            let stat = process::stat(pid).filter(|s| s.start_time == start_time);
            let pidfd = pidfd.map(Arc::new);
            let alive = pidfd.is_some();
            let (part, place) = stat.as_ref().map_or((None, None), |_| part_of(pid));
            let member = Member {
                pid,
                own_pid: book.own_pid.load(SeqCst),
                start_time,
                uid: process::uid(pid).filter(|_| alive),
                command: process::command(pid).filter(|_| alive).unwrap_or_else(|| format!("process {pid}")),
                since: process::started_at(start_time).unwrap_or_else(process::now),
                dead: None,
                image: stat.map_or([0; 4], |s| s.image),
                last: (live.files.read(slot), Instant::now()),
                denied_seen: live.files.read(slot).denied,
                peak_bytes: 0,
                measured: 0,
                part,
                place,
                pidfd: pidfd.clone(),
            };
            match pidfd {
                Some(pidfd) => watched.push((slot, pid, start_time, pidfd)),
                None => gone.push((slot, pid, start_time)),
            }
            live.processes.insert(slot, member);
        }
        let mut inner = self.lock();
        self.insert(&mut inner, live);
        if let Err(why) = self.way(record) {
            inner.event("warning", Some(record), &why.message);
        }
        if !watched.is_empty() {
            let message = format!("slice {} goes on with {} running processes", record.name, watched.len());
            inner.event("adopted", Some(record), &message);
        }
        if let Some(holder) = record.holder {
            if holder.launched && process::is_alive(holder.pid, holder.start_time) {
                let launcher = Launcher { start_time: holder.start_time, slice: record.id.clone() };
                inner.launchers.insert(holder.pid, launcher);
            }
            self.watch_holder(holder, record.id.clone());
        }
        self.end_if_over(&mut inner, &record.id);
        drop(inner);
        for (slot, pid, start_time, pidfd) in watched {
            self.watch(&record.id, slot, pid, start_time, &pidfd);
        }
        for (slot, pid, start_time) in gone {
            let (node, id) = (Arc::clone(self), record.id.clone());
            tokio::spawn(async move { node.ended(&id, slot, pid, start_time).await });
        }
        Ok(())
    }
}

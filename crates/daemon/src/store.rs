//! What is kept over restarts and reboots: slices, events, and what contexts cost. One SQLite file.
use crate::process;
use crate::slice::Record;
use cleave_api::{Event, MigLayout, MigPlace};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::collections::BTreeMap;
use std::path::Path;

/// Counts up with each change of the tables.
pub const SCHEMA: i64 = STEPS.len() as i64;
/// How a database of each schema becomes one of the next, from an empty one on. A record's fields that it has not are
/// defaults; but one that has them must not be read by a cleave that would ignore them, and so each needs a step.
const STEPS: [&str; 7] = [
    "CREATE TABLE slices (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;
     CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL,
                          slice TEXT, owner INTEGER, message TEXT NOT NULL) STRICT;
     CREATE INDEX events_slice ON events (slice, id);
     CREATE TABLE contexts (model TEXT NOT NULL, driver TEXT NOT NULL, bytes INTEGER NOT NULL,
                            stack_factor INTEGER NOT NULL, PRIMARY KEY (model, driver)) STRICT;",
    // Records have a mode, a priority, a burst, may be paused, and count device time.
    "",
    // Records say what becomes of programs that bypass the quota.
    "",
    // Records have a watchdog, and may be suspended.
    "",
    // Records say what was done by class.
    "",
    // GPUs may be drained, and records say where they go and came from.
    "CREATE TABLE draining (uuid TEXT PRIMARY KEY) STRICT;",
    // Records may have a MIG instance, and may be suspended by themselves; GPUs may have a layout.
    "CREATE TABLE mig (gpu TEXT PRIMARY KEY, layout TEXT NOT NULL) STRICT;
     CREATE TABLE mig_made (gpu TEXT NOT NULL, profile TEXT NOT NULL, start INTEGER NOT NULL, PRIMARY KEY (gpu, start)) STRICT;",
];
/// Most events kept.
const EVENTS: i64 = 20_000;

/// Why the database did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It was written by a newer cleave.
    #[error(
        "{path} was written by a newer cleave (schema {found}; this one knows {SCHEMA}): install that version again, or start with another --state-dir"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its schema.
        found: i64,
    },
    /// The disk is full.
    #[error("no room for the database: the disk is full")]
    Full,
    /// Anything else.
    #[error("database: {0}")]
    Sqlite(rusqlite::Error),
    /// A record that is not one.
    #[error("database: slice {0} can't be read: {1}")]
    Record(String, serde_json::Error),
    /// A layout that is none.
    #[error("database: the MIG layout of {0} can't be read: {1}")]
    Layout(String, serde_json::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sqlite(error),
        }
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// What was measured on a model of GPU with one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextCost {
    /// Bytes that NVML shows for a process with one context and nothing else.
    pub context_bytes: u64,
    /// Multiprocessors × resident threads.
    pub stack_factor: u64,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    events_since_trim: u32,
}

impl Store {
    /// Opens or makes it.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(std::time::Duration::from_secs(2))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // Each commit survives a crash of the daemon; a power cut may cost the last ones, never the file.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > SCHEMA {
            return Err(StoreError::Newer { path: path.display().to_string(), found });
        }
        let missing = STEPS.get(usize::try_from(found).unwrap_or(0)..).unwrap_or_default();
        if !missing.is_empty() {
            connection
                .execute_batch(&format!("BEGIN; {} PRAGMA user_version = {SCHEMA}; COMMIT;", missing.concat()))?;
        }
        Ok(Self { connection, events_since_trim: 0 })
    }

    /// Every slice.
    pub fn slices(&self) -> Result<Vec<Record>> {
        let mut query = self.connection.prepare("SELECT id, record FROM slices ORDER BY rowid")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        rows.map(|row| {
            let (id, text) = row?;
            serde_json::from_str(&text).map_err(|error| StoreError::Record(id, error))
        })
        .collect()
    }

    /// Writes a slice, new or changed.
    pub fn put(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_string(record).map_err(|e| StoreError::Record(record.id.clone(), e))?;
        self.connection
            .prepare_cached(
                "INSERT INTO slices (id, name, record) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET name = ?2, record = ?3",
            )?
            .execute(params![record.id, record.name, text])?;
        Ok(())
    }

    /// Writes slices, all or none.
    pub fn put_all(&mut self, records: &[Record]) -> Result<()> {
        self.all_or_none(|store| records.iter().try_for_each(|record| store.put(record)))
    }

    /// Forgets slices, all or none.
    pub fn remove_all(&mut self, records: &[Record]) -> Result<()> {
        self.all_or_none(|store| records.iter().try_for_each(|record| store.remove(&record.id)))
    }

    fn all_or_none(&mut self, writes: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.connection.execute_batch("BEGIN")?;
        let written = writes(self).and_then(|()| Ok(self.connection.execute_batch("COMMIT")?));
        if written.is_err() {
            // What can't be written is undone by SQLite itself at the latest when the file is opened next.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        written
    }

    /// Forgets a slice.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.connection.prepare_cached("DELETE FROM slices WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// Writes an event down.
    pub fn event(&mut self, kind: &str, slice: Option<&str>, owner: Option<u32>, message: &str) -> Result<()> {
        self.connection
            .prepare_cached("INSERT INTO events (at, kind, slice, owner, message) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![process::now(), kind, slice, owner, message])?;
        self.events_since_trim += 1;
        if self.events_since_trim >= 256 {
            self.events_since_trim = 0;
            self.connection
                .prepare_cached("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?1")?
                .execute([EVENTS])?;
        }
        Ok(())
    }

    /// Events after number `since`, oldest first; of one slice, of one owner, if given.
    pub fn events(&self, since: u64, slice: Option<&str>, owner: Option<u32>, limit: u32) -> Result<Vec<Event>> {
        let mut query = self.connection.prepare_cached(
            "SELECT id, at, kind, slice, message FROM events
             WHERE id > ?1 AND (?2 IS NULL OR slice = ?2) AND (?3 IS NULL OR owner = ?3) ORDER BY id LIMIT ?4",
        )?;
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        let rows = query.query_map(params![since, slice, owner, limit], |row| {
            Ok(Event {
                id: row.get::<_, i64>(0)?.unsigned_abs(),
                at: row.get(1)?,
                kind: row.get(2)?,
                slice: row.get(3)?,
                message: row.get(4)?,
            })
        })?;
        rows.map(|row| row.map_err(StoreError::from)).collect()
    }

    /// UUIDs of the GPUs that are being drained.
    pub fn draining(&self) -> Result<std::collections::HashSet<String>> {
        let mut query = self.connection.prepare("SELECT uuid FROM draining")?;
        query.query_map([], |row| row.get(0))?.map(|row| row.map_err(StoreError::from)).collect()
    }

    /// Writes down whether a GPU is being drained, and the slices that go elsewhere: all or nothing.
    pub fn drain(&mut self, uuid: &str, draining: bool, records: &[Record]) -> Result<()> {
        let transaction = self.connection.transaction()?;
        let sql = if draining {
            "INSERT OR IGNORE INTO draining VALUES (?1)"
        } else {
            "DELETE FROM draining WHERE uuid = ?1"
        };
        transaction.execute(sql, [uuid])?;
        for record in records {
            let text = serde_json::to_string(record).map_err(|e| StoreError::Record(record.id.clone(), e))?;
            transaction.execute("UPDATE slices SET record = ?2 WHERE id = ?1", params![record.id, text])?;
        }
        Ok(transaction.commit()?)
    }

    /// The MIG layouts that GPUs shall have, by UUID.
    pub fn layouts(&self) -> Result<BTreeMap<String, MigLayout>> {
        let mut query = self.connection.prepare_cached("SELECT gpu, layout FROM mig")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        rows.map(|row| {
            let (gpu, text) = row?;
            let layout = serde_json::from_str(&text).map_err(|error| StoreError::Layout(gpu.clone(), error))?;
            Ok((gpu, layout))
        })
        .collect()
    }

    /// Writes down what a GPU shall be.
    pub fn put_layout(&self, gpu: &str, layout: &MigLayout) -> Result<()> {
        let text = serde_json::to_string(layout).map_err(|error| StoreError::Layout(gpu.to_owned(), error))?;
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO mig (gpu, layout) VALUES (?1, ?2)")?
            .execute(params![gpu, text])?;
        Ok(())
    }

    /// Forgets what a GPU shall be; whether there was anything.
    pub fn remove_layout(&self, gpu: &str) -> Result<bool> {
        Ok(self.connection.prepare_cached("DELETE FROM mig WHERE gpu = ?1")?.execute([gpu])? > 0)
    }

    /// The MIG instances that were made for slices, with their GPUs' UUIDs.
    pub fn made(&self) -> Result<Vec<(String, MigPlace)>> {
        let mut query =
            self.connection.prepare_cached("SELECT gpu, profile, start FROM mig_made ORDER BY gpu, start")?;
        let rows = query
            .query_map([], |row| Ok((row.get(0)?, MigPlace { profile: row.get(1)?, start: Some(row.get(2)?) })))?;
        rows.map(|row| row.map_err(StoreError::from)).collect()
    }

    /// Writes down that an instance is made for a slice.
    pub fn put_made(&self, gpu: &str, place: &MigPlace) -> Result<()> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO mig_made (gpu, profile, start) VALUES (?1, ?2, ?3)")?
            .execute(params![gpu, place.profile, place.start])?;
        Ok(())
    }

    /// Forgets that.
    pub fn remove_made(&self, gpu: &str, place: &MigPlace) -> Result<()> {
        self.connection
            .prepare_cached("DELETE FROM mig_made WHERE gpu = ?1 AND start = ?2")?
            .execute(params![gpu, place.start])?;
        Ok(())
    }

    /// What a context costs, if it was measured.
    pub fn context(&self, model: &str, driver: &str) -> Result<Option<ContextCost>> {
        let row = self
            .connection
            .prepare_cached("SELECT bytes, stack_factor FROM contexts WHERE model = ?1 AND driver = ?2")?
            .query_row([model, driver], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        Ok(row.map(|(bytes, factor)| ContextCost {
            context_bytes: bytes.unsigned_abs(),
            stack_factor: factor.unsigned_abs(),
        }))
    }

    /// Remembers what a context costs.
    pub fn put_context(&self, model: &str, driver: &str, cost: ContextCost) -> Result<()> {
        self.connection.execute(
            "INSERT OR REPLACE INTO contexts (model, driver, bytes, stack_factor) VALUES (?1, ?2, ?3, ?4)",
            params![
                model,
                driver,
                i64::try_from(cost.context_bytes).unwrap_or(i64::MAX),
                i64::try_from(cost.stack_factor).unwrap_or(i64::MAX)
            ],
        )?;
        Ok(())
    }

    /// Leaves everything in the one file.
    pub fn close(&self) {
        let _ = self.connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_events_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cleave.db");
        let mut record = Record { id: "SLICE-1".into(), name: "a".into(), owner: 7, ..Record::default() };
        {
            let mut store = Store::open(&path).unwrap();
            store.put(&record).unwrap();
            record.compute_percent = Some(12.5);
            store.put(&record).unwrap();
            let other = Record { id: "SLICE-2".into(), ..record.clone() };
            assert!(store.put(&other).is_err(), "names are unique");
            let third = Record { id: "SLICE-3".into(), name: "c".into(), ..record.clone() };
            assert!(store.put_all(&[third.clone(), other]).is_err());
            assert_eq!(store.slices().unwrap().len(), 1, "all or none");
            store.put_all(std::slice::from_ref(&third)).unwrap();
            store.remove_all(&[third]).unwrap();
            store.event("slice-created", Some("a"), Some(7), "made").unwrap();
            store.event("warning", None, None, "hm").unwrap();
            let cost = ContextCost { context_bytes: 5, stack_factor: 6 };
            store.put_context("H100", "580", cost).unwrap();
            assert_eq!(store.context("H100", "580").unwrap(), Some(cost));
            assert_eq!(store.context("H100", "581").unwrap(), None);
        }
        let store = Store::open(&path).unwrap();
        let layout = MigLayout { enabled: true, ..MigLayout::default() };
        store.put_layout("GPU-1", &layout).unwrap();
        assert_eq!(store.layouts().unwrap().get("GPU-1"), Some(&layout));
        assert_eq!([(); 2].map(|()| store.remove_layout("GPU-1").unwrap()), [true, false]);
        let place = MigPlace { profile: "1g.10gb".into(), start: Some(3) };
        store.put_made("GPU-1", &place).unwrap();
        assert_eq!(store.made().unwrap(), [("GPU-1".to_owned(), place.clone())]);
        store.remove_made("GPU-1", &place).unwrap();
        assert_eq!(store.made().unwrap(), []);
        assert_eq!(store.slices().unwrap(), [record]);
        let all = store.events(0, None, None, 10).unwrap();
        assert_eq!(all.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(), ["slice-created", "warning"]);
        assert_eq!(store.events(all[0].id, None, None, 10).unwrap().len(), 1);
        assert_eq!(store.events(0, Some("a"), None, 10).unwrap().len(), 1);
        assert_eq!(store.events(0, None, Some(7), 10).unwrap().len(), 1);
        assert_eq!(store.events(0, None, Some(8), 10).unwrap().len(), 0);
        assert_eq!(store.events(u64::MAX, None, None, 10).unwrap().len(), 0);
        store.remove("SLICE-1").unwrap();
        assert_eq!(store.slices().unwrap(), []);
    }

    #[test]
    fn an_older_store_is_read_with_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cleave.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&format!("{} PRAGMA user_version = 1;", STEPS[0])).unwrap();
        let text = r#"{"id":"SLICE-1","name":"a","owner":7,"created_at":"2026-01-01T00:00:00Z","devices":[{"uuid":"GPU-1",
            "index":0,"limit_bytes":5,"peak_bytes":3}],"compute_percent":25.0,"host_limit_bytes":null,"on_missing":"refuse",
            "ephemeral":false,"started":true,"holder":null,"denied_total":1,"launches_total":2}"#;
        old.execute("INSERT INTO slices VALUES ('SLICE-1', 'a', ?1)", [text]).unwrap();
        drop(old);
        for _ in 0..2 {
            let store = Store::open(&path).unwrap();
            let read = store.slices().unwrap().remove(0);
            assert_eq!((read.compute_percent, read.devices[0].limit_bytes, read.launches_total), (Some(25.0), 5, 2));
            assert_eq!((read.mode, read.priority.to_string().as_str()), (cleave_api::Mode::Balanced, "staging"));
            assert_eq!((read.burst_ms, read.paused, read.devices[0].time.device_ns), (None, false, 0));
            store.put(&read).unwrap();
        }
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cleave.db");
        Store::open(&path).unwrap().connection.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(error.contains("newer cleave"), "{error}");
    }

    #[test]
    fn events_are_bounded() {
        let mut store = Store::open(Path::new(":memory:")).unwrap();
        for _ in 0..EVENTS + 600 {
            store.event("denied", Some("a"), None, "x").unwrap();
        }
        let kept = store.events(0, None, None, u32::MAX).unwrap().len() as i64;
        assert!((EVENTS..EVENTS + 256).contains(&kept), "{kept}");
    }
}

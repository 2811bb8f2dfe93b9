"""The ledger's tables, as SQL: the first version, and what each later one adds to the one before."""

from __future__ import annotations

SCHEMA_VERSION = 4

SCHEMA = """
CREATE TABLE instances (
  label TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  provider TEXT NOT NULL,
  project TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('intended', 'open', 'closing', 'closed')),
  instance_id TEXT,
  price_per_hour REAL NOT NULL CHECK (price_per_hour >= 0),
  gpus INTEGER NOT NULL CHECK (gpus >= 0),
  gpu_name TEXT NOT NULL,
  address TEXT NOT NULL DEFAULT '',
  created_at REAL NOT NULL,
  closed_at REAL
);
CREATE UNIQUE INDEX one_open_instance_a_name ON instances (name) WHERE state != 'closed';
CREATE TABLE runs (
  run_id TEXT PRIMARY KEY,
  job TEXT NOT NULL,
  host_name TEXT NOT NULL,
  instance_label TEXT NOT NULL,
  project_root TEXT NOT NULL,
  local_root TEXT NOT NULL,
  created_at REAL NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('preparing', 'running', 'ended')),
  exit_code INTEGER,
  delete_remote INTEGER NOT NULL CHECK (delete_remote IN (0, 1)),
  keep_remote INTEGER NOT NULL CHECK (keep_remote >= 2)
);
CREATE TABLE checkpoints (
  run_id TEXT NOT NULL REFERENCES runs (run_id),
  step INTEGER NOT NULL CHECK (step >= 0),
  manifest_sha256 TEXT NOT NULL CHECK (length(manifest_sha256) = 64),
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  synced_at REAL NOT NULL,
  pruned_at REAL,
  PRIMARY KEY (run_id, step)
);
"""

UPGRADES = {
    2: """
ALTER TABLE instances ADD COLUMN machine_id TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN spot INTEGER NOT NULL DEFAULT 0 CHECK (spot IN (0, 1));
ALTER TABLE instances ADD COLUMN disk_per_hour REAL NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN upload_usd_per_gb REAL NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN download_usd_per_gb REAL NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN deadline REAL;
ALTER TABLE runs ADD COLUMN ended_at REAL;
CREATE TABLE prices (
  label TEXT NOT NULL REFERENCES instances (label),
  since REAL NOT NULL,
  gpu_per_hour REAL NOT NULL CHECK (gpu_per_hour >= 0),
  disk_per_hour REAL NOT NULL CHECK (disk_per_hour >= 0),
  PRIMARY KEY (label, since)
);
CREATE TABLE transfers (
  label TEXT NOT NULL REFERENCES instances (label),
  at REAL NOT NULL,
  direction TEXT NOT NULL CHECK (direction IN ('up', 'down')),
  bytes INTEGER NOT NULL CHECK (bytes >= 0)
);
CREATE TABLE bad_machines (
  provider TEXT NOT NULL,
  machine_id TEXT NOT NULL,
  since REAL NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (provider, machine_id)
);
CREATE TABLE errands (
  errand_id TEXT PRIMARY KEY,
  project_root TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('going', 'ended', 'failed')),
  content TEXT NOT NULL,
  created_at REAL NOT NULL,
  ended_at REAL
);
""",
    3: """
ALTER TABLE instances ADD COLUMN group_name TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN inside TEXT NOT NULL DEFAULT '';
CREATE TABLE run_nodes (
  run_id TEXT NOT NULL REFERENCES runs (run_id),
  node INTEGER NOT NULL CHECK (node >= 0),
  host_name TEXT NOT NULL,
  instance_label TEXT NOT NULL,
  PRIMARY KEY (run_id, node)
);
""",
    4: """
CREATE TABLE networks (
  label TEXT PRIMARY KEY,
  group_name TEXT NOT NULL,
  provider TEXT NOT NULL,
  project TEXT NOT NULL,
  cluster_id TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('intended', 'open', 'closing', 'closed')),
  network_id TEXT,
  created_at REAL NOT NULL,
  closed_at REAL
);
CREATE UNIQUE INDEX one_open_network_a_group ON networks (group_name) WHERE state != 'closed';
""",
}
"""What each version adds to the one before it. A new ledger is made at version 1 and goes the same way."""

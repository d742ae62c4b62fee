package state

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Snapshot records what an import put into one table.
type Snapshot struct {
	Table string `json:"table"`
	// Clock is the time that the snapshot shows: it holds every change up to
	// and with it, and none after.
	Clock Clock `json:"clock"`
	// Job is the export that it came from; "" where only the schema was imported.
	Job string `json:"job,omitempty"`
	// Destination is the masked URL of what was imported into.
	Destination string `json:"destination"`
	// Rows is how many rows it had.
	Rows       int64     `json:"rows"`
	ImportedAt time.Time `json:"importedAt"`
	// Begun is true once the server has begun to follow the stream from it.
	Begun bool `json:"begun"`
}

// Clock is a cdc.Timestamp that is stored as its text.
type Clock struct{ cdc.Timestamp }

// MarshalText writes the form that cdc.ParseTimestamp reads.
func (c Clock) MarshalText() ([]byte, error) { return c.Append(nil), nil }

// UnmarshalText reads it.
func (c *Clock) UnmarshalText(text []byte) error {
	t, err := cdc.ParseTimestamp(string(text))
	c.Timestamp = t
	return err
}

// Snapshots returns the latest snapshot of every table that was imported, by table.
func (d *Dir) Snapshots() (map[string]Snapshot, error) {
	all := make(map[string]Snapshot)
	err := d.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSnapshots).ForEach(func(key, text []byte) error {
			var s Snapshot
			if err := json.Unmarshal(text, &s); err != nil {
				return fmt.Errorf("decode the snapshot of %q: %w", key, err)
			}
			all[string(key)] = s
			return nil
		})
	})
	return all, err
}

// RecordSnapshots records snapshots, all or none. They take the place of
// earlier ones of their tables.
func (d *Dir) RecordSnapshots(snapshots ...Snapshot) error {
	return d.update(func(tx *bbolt.Tx) error {
		for _, s := range snapshots {
			if err := put(tx, bucketSnapshots, s.Table, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// MarkBegun records that the server has begun to follow the stream from the
// snapshots of the given tables. Tables without one are passed over.
func (d *Dir) MarkBegun(tables ...string) error {
	return d.update(func(tx *bbolt.Tx) error {
		for _, table := range tables {
			var s Snapshot
			ok, err := get(tx, bucketSnapshots, table, &s)
			if err != nil {
				return err
			}
			if !ok || s.Begun {
				continue
			}
			s.Begun = true
			if err := put(tx, bucketSnapshots, table, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetSnapshots forgets every snapshot, as where a server starts anew.
func (d *Dir) ForgetSnapshots() error {
	return d.update(func(tx *bbolt.Tx) error { return empty(tx, bucketSnapshots) })
}

func empty(tx *bbolt.Tx, bucket []byte) error {
	if err := tx.DeleteBucket(bucket); err != nil {
		return err
	}
	_, err := tx.CreateBucket(bucket)
	return err
}

// Import is an import that has begun and not ended well.
type Import struct {
	// Fingerprint tells the parameters and the destination. An import of
	// another fingerprint does not go on with this one.
	Fingerprint string `json:"fingerprint"`
	// Destination is its masked URL.
	Destination string    `json:"destination"`
	Started     time.Time `json:"started"`
	// Jobs are the exports that it loads from, in the order in which they were
	// started. A table belongs to the last one that names it.
	Jobs []ImportJob `json:"jobs"`
	// Tables are those that were begun, by name. They are stored one by one.
	Tables map[string]ImportTable `json:"-"`
}

// ImportJob is one export of an import.
type ImportJob struct {
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
	// Tables are those that it is for; nil means every one that no later job names.
	Tables []string `json:"tables,omitempty"`
}

// ImportTable is how far the import of one table is.
type ImportTable struct {
	Job  string `json:"job"`
	Done bool   `json:"done"`
	// ExportFailed is true where HQ failed to export the table: the job will
	// never have it.
	ExportFailed bool `json:"exportFailed,omitempty"`
	// Rows and Clock are those of a table that is done.
	Rows  int64 `json:"rows,omitempty"`
	Clock Clock `json:"clock"`
	// Files are what is known of files that are loaded, by name. Whether a file is
	// loaded a destination that stages rows tells: it may know of more of them, or
	// of fewer. They are stored one by one.
	Files map[string]ImportFile `json:"-"`
}

// ImportFile is what a loaded file held.
type ImportFile struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"` // of the file, compressed
}

const (
	importKey   = "job"
	tablePrefix = "table/"
	filePrefix  = "file/"
)

// Import returns the import that has not ended well, and whether there is one.
func (d *Dir) Import() (Import, bool, error) {
	i := Import{Tables: make(map[string]ImportTable)}
	var ok bool
	err := d.view(func(tx *bbolt.Tx) (err error) {
		if ok, err = get(tx, bucketImport, importKey, &i); err != nil || !ok {
			return err
		}
		if err := each(tx, tablePrefix, func(table string, t ImportTable) {
			t.Files = make(map[string]ImportFile)
			i.Tables[table] = t
		}); err != nil {
			return err
		}
		return each(tx, filePrefix, func(key string, f ImportFile) {
			slash := strings.LastIndexByte(key, '/') // no export file has one in its name
			if t, ok := i.Tables[key[:max(slash, 0)]]; ok {
				t.Files[key[slash+1:]] = f
			}
		})
	})
	return i, ok, err
}

// each decodes the import's values whose keys begin with prefix.
func each[V any](tx *bbolt.Tx, prefix string, use func(name string, v V)) error {
	c := tx.Bucket(bucketImport).Cursor()
	for key, text := c.Seek([]byte(prefix)); key != nil; key, text = c.Next() {
		name, ok := strings.CutPrefix(string(key), prefix)
		if !ok {
			return nil
		}
		var v V
		if err := json.Unmarshal(text, &v); err != nil {
			return fmt.Errorf("decode %s: %w", key, err)
		}
		use(name, v)
	}
	return nil
}

// BeginImport records an import that has begun no table, in the place of any other.
func (d *Dir) BeginImport(i Import) error {
	return d.update(func(tx *bbolt.Tx) error {
		if err := empty(tx, bucketImport); err != nil {
			return err
		}
		return put(tx, bucketImport, importKey, i)
	})
}

// RecordJobs records the exports that the import loads from.
func (d *Dir) RecordJobs(jobs []ImportJob) error {
	return d.update(func(tx *bbolt.Tx) error {
		var i Import
		if _, err := get(tx, bucketImport, importKey, &i); err != nil {
			return err
		}
		i.Jobs = jobs
		return put(tx, bucketImport, importKey, i)
	})
}

// RecordTable records how far the import of one table is.
func (d *Dir) RecordTable(table string, t ImportTable) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketImport, tablePrefix+table, t) })
}

// RecordFile records what a loaded file held.
func (d *Dir) RecordFile(table, file string, f ImportFile) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketImport, filePrefix+table+"/"+file, f) })
}

// FinishTable records that a table's import is done, and its snapshot, in one.
func (d *Dir) FinishTable(s Snapshot) error {
	return d.update(func(tx *bbolt.Tx) error {
		done := ImportTable{Job: s.Job, Done: true, Rows: s.Rows, Clock: s.Clock}
		if err := put(tx, bucketImport, tablePrefix+s.Table, done); err != nil {
			return err
		}
		return put(tx, bucketSnapshots, s.Table, s)
	})
}

// FinishImport forgets the import, which ended well. The snapshots stay.
func (d *Dir) FinishImport() error {
	return d.update(func(tx *bbolt.Tx) error { return empty(tx, bucketImport) })
}

package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

// Import is an import that has started and has not succeeded yet.
type Import struct {
	// Fingerprint identifies the import's parameters together with the spelling of the
	// destination's URL. Parameters identifies the parameters alone. Parameters is "" if an earlier
	// version started the import.
	Fingerprint string `json:"fingerprint"`
	Parameters  string `json:"parameters,omitempty"`
	// Identity is the identity of the destination. Destination is its masked URL.
	Identity    string    `json:"identity,omitempty"`
	Destination string    `json:"destination"`
	Started     time.Time `json:"started"`
	// Jobs are the exports that the import loads from, in the order in which they started. A table
	// belongs to the last job that names it.
	Jobs []ExportRecord `json:"jobs"`
	// Tables holds the progress of the tables whose import has started, by name. Each table is
	// stored under a key of its own.
	Tables map[string]ImportTable `json:"-"`
}

// ExportRecord is one export of an import.
type ExportRecord struct {
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
	// Tables are the tables that the job exports. If nil, the job exports every table that no later
	// job names.
	Tables []string `json:"tables,omitempty"`
}

// ImportTable is the progress of the import of one table.
type ImportTable struct {
	Job  string `json:"job"`
	Done bool   `json:"done"`
	// ExportFailed is true if HQ failed to export the table. The job then never delivers the table.
	ExportFailed bool `json:"exportFailed,omitempty"`
	// Rows is the number of imported rows, and Clock the time of the snapshot. Both are zero until
	// Done is true.
	Rows  int64 `json:"rows,omitempty"`
	Clock Clock `json:"clock"`
	// Files are the recorded files, by name. Each file is stored under a key of its own. If the
	// destination stages rows, its own record decides whether a file is loaded: that record may
	// have more or fewer files.
	Files map[string]ImportFile `json:"-"`
}

// ImportFile describes a loaded export file.
type ImportFile struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"` // compressed size of the file
}

const (
	importKey   = "job"
	tablePrefix = "table/"
	filePrefix  = "file/"
)

// Import returns the import that has started and has not succeeded yet, and reports whether there
// is one.
func (d *Dir) Import() (Import, bool, error) {
	i := Import{Tables: make(map[string]ImportTable)}
	var ok bool
	err := d.view(func(tx *bbolt.Tx) (err error) {
		if ok, err = get(tx, bucketImport, importKey, &i); err != nil || !ok {
			return err
		}
		if err := eachImportValue(tx, tablePrefix, func(table string, t ImportTable) {
			t.Files = make(map[string]ImportFile)
			i.Tables[table] = t
		}); err != nil {
			return err
		}
		return eachImportValue(tx, filePrefix, func(key string, f ImportFile) {
			slash := strings.LastIndexByte(key, '/') // no export file has a slash in its name
			if t, ok := i.Tables[key[:max(slash, 0)]]; ok {
				t.Files[key[slash+1:]] = f
			}
		})
	})
	return i, ok, err
}

// eachImportValue decodes each value of the import whose key starts with prefix. It calls the
// callback with the rest of the key and the decoded value.
func eachImportValue[V any](tx *bbolt.Tx, prefix string, use func(name string, v V)) error {
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

// BeginImport records an import that has not started any table. It replaces the record of any other
// import.
func (d *Dir) BeginImport(i Import) error {
	return d.update(func(tx *bbolt.Tx) error {
		if err := empty(tx, bucketImport); err != nil {
			return err
		}
		return put(tx, bucketImport, importKey, i)
	})
}

// RecordJobs replaces the list of exports in the record of the import.
func (d *Dir) RecordJobs(jobs []ExportRecord) error {
	return d.update(func(tx *bbolt.Tx) error {
		var i Import
		if _, err := get(tx, bucketImport, importKey, &i); err != nil {
			return err
		}
		i.Jobs = jobs
		return put(tx, bucketImport, importKey, i)
	})
}

// RecordTable records the progress of the import of one table.
func (d *Dir) RecordTable(table string, t ImportTable) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketImport, tablePrefix+table, t) })
}

// RecordFile records a file of a table that the import has loaded.
func (d *Dir) RecordFile(table, file string, f ImportFile) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketImport, filePrefix+table+"/"+file, f) })
}

// FinishTable records that the import of one table into the destination is done. It also records s,
// the snapshot of that table. Both records are written in one transaction.
func (d *Dir) FinishTable(at DestinationKey, s ImportRecord) error {
	return d.update(func(tx *bbolt.Tx) error {
		done := ImportTable{Job: s.Job, Done: true, Rows: s.Rows, Clock: s.Clock}
		if err := put(tx, bucketImport, tablePrefix+s.Table, done); err != nil {
			return err
		}
		return record(tx, at, s)
	})
}

// FinishImport removes the record of an import that has succeeded. The snapshots of its tables
// remain.
func (d *Dir) FinishImport() error {
	return d.update(func(tx *bbolt.Tx) error { return empty(tx, bucketImport) })
}

// FinishWholeImport removes the record of an import that has loaded every table of the source into
// the destination. It marks the snapshots of the imported tables as Whole. It also removes the
// snapshots of tables that are not in the list source, because the source no longer has these
// tables.
func (d *Dir) FinishWholeImport(at DestinationKey, imported, source []string) error {
	return d.update(func(tx *bbolt.Tx) error {
		if err := markWhole(tx, at, imported, source); err != nil {
			return err
		}
		return empty(tx, bucketImport)
	})
}

func markWhole(tx *bbolt.Tx, at DestinationKey, imported, source []string) error {
	if err := adopt(tx, at); err != nil {
		return err
	}
	all, err := snapshots(tx, at)
	for table, s := range all {
		switch {
		case !slices.Contains(source, table):
			err = errors.Join(err, tx.Bucket(bucketSnapshots).Delete([]byte(table)))
		case slices.Contains(imported, table):
			s.Whole = true
			err = errors.Join(err, putSnapshot(tx, at, s))
		}
	}
	return err
}

func empty(tx *bbolt.Tx, bucket []byte) error {
	if err := tx.DeleteBucket(bucket); err != nil {
		return err
	}
	_, err := tx.CreateBucket(bucket)
	return err
}

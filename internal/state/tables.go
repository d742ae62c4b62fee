package state

import (
	"slices"

	"go.etcd.io/bbolt"
)

// TableList is a list of names of tables that is kept per destination.
type TableList string

// The lists.
const (
	// SourceTables are those that HQ is known to have, and that are not to be imported
	// because they are new.
	SourceTables TableList = "source-tables:"
	// EmptiedTables are those whose rows were all deleted, or are known to be lost.
	EmptiedTables TableList = "emptied-tables:"
)

// Tables returns a list, sorted, and whether SetTables has ever recorded it.
func (d *Dir) Tables(l TableList, at Destination) (names []string, recorded bool, err error) {
	err = d.view(func(tx *bbolt.Tx) (err error) {
		recorded, err = get(tx, bucketValues, string(l)+at.Identity, &names)
		return err
	})
	return names, recorded, err
}

// SetTables records a list in the place of the former one.
func (d *Dir) SetTables(l TableList, at Destination, names []string) error {
	names = slices.Sorted(slices.Values(names))
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, string(l)+at.Identity, names) })
}

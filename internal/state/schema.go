package state

import (
	"bytes"
	"encoding/binary"
	"encoding/json"

	"go.etcd.io/bbolt"
)

// LoadSchema returns a schema that SaveSchema kept, and whether it did.
func (d *Dir) LoadSchema(object, modelVersion string) (json.RawMessage, bool, error) {
	var text json.RawMessage
	err := d.view(func(tx *bbolt.Tx) error {
		text = bytes.Clone(tx.Bucket(bucketSchemas).Get(schemaKey(object, modelVersion)))
		return nil
	})
	return text, text != nil, err
}

// SaveSchema keeps one version of an object's schema for ever. A version that
// is kept already costs nothing, as versions do not change.
func (d *Dir) SaveSchema(object, modelVersion string, text json.RawMessage) error {
	if d.looks {
		return nil
	}
	known, ok, err := d.LoadSchema(object, modelVersion)
	if err != nil || ok && bytes.Equal(known, text) {
		return err
	}
	return d.update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSchemas).Put(schemaKey(object, modelVersion), text)
	})
}

// schemaKey is unambiguous whatever the names hold.
func schemaKey(object, modelVersion string) []byte {
	key := binary.AppendUvarint(nil, uint64(len(object)))
	key = append(key, object...)
	return append(key, modelVersion...)
}

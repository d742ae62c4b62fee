package state

import (
	"bytes"
	"encoding/binary"
	"encoding/json"

	"go.etcd.io/bbolt"
)

// LoadSchema returns the schema that SaveSchema saved for the object and version, and reports
// whether there is one.
func (d *Dir) LoadSchema(object, modelVersion string) (json.RawMessage, bool, error) {
	var text json.RawMessage
	err := d.view(func(tx *bbolt.Tx) error {
		text = bytes.Clone(tx.Bucket(bucketSchemas).Get(schemaKey(object, modelVersion)))
		return nil
	})
	return text, text != nil, err
}

// SaveSchema saves one version of an object's schema permanently. If the same schema is saved
// already, it writes nothing.
func (d *Dir) SaveSchema(object, modelVersion string, text json.RawMessage) error {
	if d.readOnly {
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

// schemaKey returns a key that is unique for each pair of names, whatever characters they contain.
func schemaKey(object, modelVersion string) []byte {
	key := binary.AppendUvarint(nil, uint64(len(object)))
	key = append(key, object...)
	return append(key, modelVersion...)
}

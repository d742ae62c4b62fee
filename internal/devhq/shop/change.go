package shop

import (
	"encoding/json"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// Change is one change of one row, as HQ publishes it. Its memory is never
// written to again, so it may be kept.
type Change struct {
	// Seq counts the shop's changes from 1, without gaps. It is not on the wire.
	Seq uint64
	// ID names the change. It is unique, and the same each time the change is
	// published, which makes it the message id for deduplication.
	ID string

	Op           cdc.Op
	Table        string
	Key          json.RawMessage // array of the primary key's values, the row's own id last
	ModelVersion string
	CompanyID    string
	LocationID   string // "" where the row belongs to the whole company
	UserID       string // who made the change; "" for the shop's own machinery
	Before       json.RawMessage
	After        json.RawMessage
	Diff         []string // the columns that an UPDATE changed
	Clock        cdc.Timestamp
	Imported     bool
}

// Timestamp returns the time of the change in unix milliseconds.
func (c *Change) Timestamp() int64 { return c.Clock.Wall / 1e6 }

// Subject returns the subject under which the change is published.
func (c *Change) Subject() string {
	return "dbchange." + c.Table + "." + c.Op.String() + "." + orNone(c.CompanyID) + "." + orNone(c.LocationID) + ".PUBLIC." + c.ModelVersion
}

func orNone(id string) string {
	if id == "" {
		return "NONE"
	}
	return id
}

// AppendJSON appends the change as it stands on the wire to dst.
func (c *Change) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"operation":"`...)
	dst = append(dst, c.Op.String()...)
	dst = append(dst, `","id":`...)
	dst = rawjson.AppendQuoted(dst, c.ID)
	dst = append(dst, `,"table":`...)
	dst = rawjson.AppendQuoted(dst, c.Table)
	dst = append(dst, `,"key":`...)
	dst = append(dst, c.Key...)
	dst = append(dst, `,"modelVersion":`...)
	dst = rawjson.AppendQuoted(dst, c.ModelVersion)
	dst = appendMember(dst, `,"companyId":`, c.CompanyID)
	dst = appendMember(dst, `,"locationId":`, c.LocationID)
	dst = appendMember(dst, `,"userId":`, c.UserID)
	if c.Before != nil {
		dst = append(dst, `,"before":`...)
		dst = append(dst, c.Before...)
	}
	if c.After != nil {
		dst = append(dst, `,"after":`...)
		dst = append(dst, c.After...)
	}
	if c.Op == cdc.Update {
		dst = append(dst, `,"diff":[`...)
		for i, name := range c.Diff {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = rawjson.AppendQuoted(dst, name)
		}
		dst = append(dst, ']')
	}
	dst = append(dst, `,"timestamp":`...)
	dst = strconv.AppendInt(dst, c.Timestamp(), 10)
	dst = append(dst, `,"mvccTimestamp":"`...)
	dst = c.Clock.Append(dst)
	dst = append(dst, '"')
	if c.Imported {
		dst = append(dst, `,"imported":true`...)
	}
	return append(dst, '}')
}

// appendMember appends a member whose value may be missing.
func appendMember(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return rawjson.AppendQuoted(append(dst, name...), value)
}

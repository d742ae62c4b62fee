package shop

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// Change is one change of one row, as HQ publishes it. It is immutable, so callers may keep it
// without a copy.
type Change struct {
	// Seq numbers the shop's changes from 1, without gaps. It is not part of the published
	// message.
	Seq uint64
	// ID identifies the change. It is unique, and stays the same if the change is published again,
	// so it serves as the message id for deduplication.
	ID string

	Op           cdc.Op
	Table        string
	Key          json.RawMessage // JSON array of the primary key's values; the row's own id is the last one
	ModelVersion string
	CompanyID    string
	LocationID   string // "" if the row belongs to the whole company
	UserID       string // "" if the shop's machinery made the change
	Before       json.RawMessage
	After        json.RawMessage
	Diff         []string // the columns that an UPDATE changed
	Clock        cdc.Timestamp
	Imported     bool
}

// Timestamp returns the time of the change in Unix milliseconds.
func (c *Change) Timestamp() int64 { return c.Clock.Wall / 1e6 }

// Subject returns the subject under which the change is published.
func (c *Change) Subject() string {
	return strings.Join([]string{
		"dbchange", c.Table, c.Op.String(), cmp.Or(c.CompanyID, "NONE"), cmp.Or(c.LocationID, "NONE"), "PUBLIC", c.ModelVersion,
	}, ".")
}

// AppendJSON appends the change in its published JSON form to dst.
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

// appendMember appends an object member with a string value, unless the value is empty.
func appendMember(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return rawjson.AppendQuoted(append(dst, name...), value)
}

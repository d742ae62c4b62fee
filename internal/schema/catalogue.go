package schema

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Fetcher asks HQ for schemas, as the JSON text that HQ answers with. A table
// or version that HQ does not know is an error for which NotFound reports true.
type Fetcher interface {
	// LatestSchemas returns the newest Schema of every object, by object name.
	LatestSchemas(ctx context.Context) (map[string]json.RawMessage, error)
	// Schema returns one version of one object, which never changes.
	Schema(ctx context.Context, object, modelVersion string) (json.RawMessage, error)
}

// Cache keeps schema versions across restarts.
type Cache interface {
	LoadSchema(object, modelVersion string) (json.RawMessage, bool, error)
	SaveSchema(object, modelVersion string, text json.RawMessage) error
}

// Catalogue knows every version of every table: from memory, else from the
// cache, else from HQ. Versions of one layout share one *Table, so that a
// pointer identifies a layout. It is safe for concurrent use.
type Catalogue struct {
	fetch Fetcher
	cache Cache
	seed  maphash.Seed

	mu       sync.Mutex
	versions map[versionKey]*Table
	layouts  map[uint64][]*Table
	objects  map[string]string // table -> object
}

type versionKey struct{ table, version string }

// NewCatalogue returns an empty catalogue over fetch and cache.
func NewCatalogue(fetch Fetcher, cache Cache) *Catalogue {
	return &Catalogue{
		fetch: fetch, cache: cache, seed: maphash.MakeSeed(),
		versions: make(map[versionKey]*Table), layouts: make(map[uint64][]*Table), objects: make(map[string]string),
	}
}

// MalformedError says which objects have schemas that can't be used.
type MalformedError struct {
	Objects map[string]error // by object name
}

func (e *MalformedError) Error() string {
	lines := make([]string, 0, len(e.Objects))
	for _, object := range slices.Sorted(maps.Keys(e.Objects)) {
		lines = append(lines, fmt.Sprintf("schema of object %q: %v", object, e.Objects[object]))
	}
	return strings.Join(lines, "; ")
}

// Latest asks HQ for the newest version of every table, by table name. Where some
// can't be used it returns the others with a MalformedError.
func (c *Catalogue) Latest(ctx context.Context) (map[string]*Table, error) {
	answer, err := c.fetch.LatestSchemas(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetch the schema: %w", err)
	}
	tables := make(map[string]*Table, len(answer))
	malformed := make(map[string]error)
	for object, text := range answer {
		t, err := Decode(text)
		if err != nil {
			malformed[object] = err
			continue
		}
		if err := c.cache.SaveSchema(object, t.Version, text); err != nil {
			return nil, err
		}
		tables[t.Name] = c.add(object, t)
	}
	if len(malformed) > 0 {
		return tables, &MalformedError{malformed}
	}
	return tables, nil
}

// Version returns the given version of a table. It blocks while HQ is asked,
// which happens once a version.
func (c *Catalogue) Version(ctx context.Context, table, modelVersion string) (*Table, error) {
	if t := c.known(table, modelVersion); t != nil {
		return t, nil
	}
	object, err := c.object(ctx, table)
	if err != nil {
		return nil, err
	}
	if t := c.known(table, modelVersion); t != nil { // asking for the object may have brought it
		return t, nil
	}
	text, hit, err := c.cache.LoadSchema(object, modelVersion)
	if err != nil {
		return nil, err
	}
	if !hit {
		if text, err = c.fetch.Schema(ctx, object, modelVersion); err != nil {
			return nil, fmt.Errorf("fetch the schema of %q, version %q: %w", table, modelVersion, err)
		}
	}
	t, err := Decode(text)
	if err != nil {
		return nil, fmt.Errorf("schema of %q, version %q: %w", table, modelVersion, err)
	}
	if !hit {
		if err := c.cache.SaveSchema(object, modelVersion, text); err != nil {
			return nil, err
		}
	}
	// The answer is for what was asked, whatever it calls itself.
	t.Name, t.Version = table, modelVersion
	return c.add(object, t), nil
}

// object returns the name under which HQ knows a table. A table that HQ does
// not list is asked for by its own name.
func (c *Catalogue) object(ctx context.Context, table string) (string, error) {
	c.mu.Lock()
	object, ok := c.objects[table]
	c.mu.Unlock()
	if ok {
		return object, nil
	}
	if _, err := c.Latest(ctx); err != nil && !errors.As(err, new(*MalformedError)) {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if object, ok = c.objects[table]; !ok {
		object = table
		c.objects[table] = object
	}
	return object, nil
}

func (c *Catalogue) known(table, version string) *Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.versions[versionKey{table, version}]
}

func (c *Catalogue) add(object string, t *Table) *Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[t.Name] = object
	key := versionKey{t.Name, t.Version}
	if known := c.versions[key]; known != nil {
		return known
	}
	print := t.fingerprint(c.seed)
	for _, layout := range c.layouts[print] {
		if layout.SameLayout(t) {
			c.versions[key] = layout
			return layout
		}
	}
	c.layouts[print] = append(c.layouts[print], t)
	c.versions[key] = t
	return t
}

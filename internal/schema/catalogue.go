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
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Fetcher asks HQ for schemas, as the JSON text that HQ answers with.
type Fetcher interface {
	// LatestSchemas returns the newest Schema of every object, by object name.
	LatestSchemas(ctx context.Context) (map[string]json.RawMessage, error)
	// Schema returns one version of one object, which never changes. If HQ denies
	// it, because it does not know it or for any other reason that another attempt
	// would meet too, the error is poison.
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
	listed   time.Time         // when HQ last listed its objects
	denied   denials
	asking   map[question]chan struct{} // closed when HQ has answered
}

type versionKey struct{ table, version string }

// question is what HQ is asked for: one version, or the list of objects.
type question struct {
	versionKey
	list bool
}

// relist is how long after HQ has listed its objects it is not asked again for
// those of tables that the list lacks.
const relist = 5 * time.Second

// NewCatalogue returns an empty catalogue over fetch and cache.
func NewCatalogue(fetch Fetcher, cache Cache) *Catalogue {
	return &Catalogue{
		fetch: fetch, cache: cache, seed: maphash.MakeSeed(),
		versions: make(map[versionKey]*Table), layouts: make(map[uint64][]*Table), objects: make(map[string]string),
		denied: denials{known: make(map[versionKey]*denial)}, asking: make(map[question]chan struct{}),
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
	c.mu.Lock()
	c.listed = time.Now()
	c.mu.Unlock()
	if len(malformed) > 0 {
		return tables, &MalformedError{malformed}
	}
	return tables, nil
}

// Version returns the given version of a table. It blocks while HQ is asked,
// which happens once a version however many callers want it. If HQ denies the
// version the error is a *DeniedError. It stands for later calls too: HQ is asked
// again after ever longer waits. If a name is eds's own the error is poison.
func (c *Catalogue) Version(ctx context.Context, table, modelVersion string) (*Table, error) {
	if err := CheckTable(table); err != nil {
		return nil, err
	}
	key := versionKey{table, modelVersion}
	for {
		if t, err := c.known(key); t != nil || err != nil {
			return t, err
		}
		done, err := c.claim(ctx, question{versionKey: key})
		if err != nil {
			return nil, err
		}
		if done == nil { // another caller has asked
			continue
		}
		defer done()
		return c.ask(ctx, key)
	}
}

// claim lets one caller at a time ask HQ q, and returns what that caller calls
// once it has the answer. The others wait until then and get nil.
func (c *Catalogue) claim(ctx context.Context, q question) (done func(), err error) {
	c.mu.Lock()
	asking := c.asking[q]
	if asking == nil {
		asking = make(chan struct{})
		c.asking[q] = asking
		c.mu.Unlock()
		return func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.asking, q)
			close(asking)
		}, nil
	}
	c.mu.Unlock()
	select {
	case <-asking:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ask takes a version from the cache, else from HQ.
func (c *Catalogue) ask(ctx context.Context, key versionKey) (*Table, error) {
	object, err := c.object(ctx, key.table)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	t := c.versions[key] // asking for the object may have brought it
	c.mu.Unlock()
	if t != nil {
		return t, nil
	}
	text, hit, err := c.cache.LoadSchema(object, key.version)
	if err != nil {
		return nil, err
	}
	if hit {
		if t, err = Decode(text); err != nil { // an older eds may have kept what this one refuses
			hit = false
		}
	}
	if !hit {
		if text, err = c.fetch.Schema(ctx, object, key.version); err == nil {
			t, err = Decode(text)
			err = fault.Mark(fault.Poison, err)
		}
		switch {
		case err != nil && fault.Of(err) == fault.Poison:
			return nil, c.deny(key, err)
		case err != nil:
			return nil, fmt.Errorf("fetch the schema of %q, version %q: %w", key.table, key.version, err)
		}
		if err := c.cache.SaveSchema(object, key.version, text); err != nil {
			return nil, err
		}
	}
	// The answer is for what was asked, whatever it calls itself.
	t.Name, t.Version = key.table, key.version
	return c.add(object, t), nil
}

// object returns the name under which HQ knows a table. A table that HQ does
// not list is asked for by its own name.
func (c *Catalogue) object(ctx context.Context, table string) (string, error) {
	for {
		c.mu.Lock()
		object, ok := c.objects[table]
		fresh := !c.listed.IsZero() && time.Since(c.listed) < relist
		c.mu.Unlock()
		switch {
		case ok:
			return object, nil
		case fresh:
			return table, nil
		}
		if err := c.list(ctx); err != nil {
			return "", err
		}
	}
}

// list asks HQ for all objects, or waits while another caller does.
func (c *Catalogue) list(ctx context.Context) error {
	done, err := c.claim(ctx, question{list: true})
	if done == nil {
		return err
	}
	defer done()
	if _, err := c.Latest(ctx); err != nil && !errors.As(err, new(*MalformedError)) {
		return err
	}
	return nil
}

// known returns a version that is known, or the denial that stands.
func (c *Catalogue) known(key versionKey) (*Table, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.versions[key]; t != nil {
		return t, nil
	}
	return nil, c.denied.of(key, time.Now())
}

// deny records that HQ has denied a version.
func (c *Catalogue) deny(key versionKey, cause error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.denied.add(key, cause, time.Now())
}

func (c *Catalogue) add(object string, t *Table) *Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[t.Name] = object
	key := versionKey{t.Name, t.Version}
	delete(c.denied.known, key)
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

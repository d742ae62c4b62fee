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

// Fetcher fetches schemas from HQ as HQ's raw JSON text.
type Fetcher interface {
	// LatestSchemas returns the newest schema of every object, keyed by object name.
	LatestSchemas(ctx context.Context) (map[string]json.RawMessage, error)
	// Schema returns one version of an object's schema, which never changes. If HQ denies the
	// version, the error is poison. HQ denies a version if HQ does not know the version, or if
	// another attempt would fail in the same way.
	Schema(ctx context.Context, object, modelVersion string) (json.RawMessage, error)
}

// Cache stores schema versions across restarts.
type Cache interface {
	LoadSchema(object, modelVersion string) (json.RawMessage, bool, error)
	SaveSchema(object, modelVersion string, text json.RawMessage) error
}

// Catalogue provides every version of every table. It looks for a version in memory first, then in
// the cache, and then at HQ. Versions with the same layout share one *Table, so that the pointer
// identifies the layout. A Catalogue is safe for concurrent use.
type Catalogue struct {
	fetch Fetcher
	cache Cache
	seed  maphash.Seed

	mu       sync.Mutex
	versions map[versionKey]*Table
	layouts  map[uint64][]*Table
	objects  map[string]string // table name -> object name
	listed   time.Time         // when HQ last listed its objects
	denied   denials
	asking   map[question]chan struct{} // requests in progress; a channel is closed when HQ has answered
}

type versionKey struct{ table, version string }

// question identifies a request to HQ, either for one version or for the list of objects.
type question struct {
	versionKey
	list bool
}

// relist is how long a list of objects is considered complete after HQ sent it.
const relist = 5 * time.Second

// NewCatalogue returns an empty catalogue that uses fetch and cache.
func NewCatalogue(fetch Fetcher, cache Cache) *Catalogue {
	return &Catalogue{
		fetch: fetch, cache: cache, seed: maphash.MakeSeed(),
		versions: make(map[versionKey]*Table), layouts: make(map[uint64][]*Table), objects: make(map[string]string),
		denied: denials{known: make(map[versionKey]*denial)}, asking: make(map[question]chan struct{}),
	}
}

// MalformedError reports the objects whose schemas cannot be used, with the reasons.
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

// Latest fetches the newest version of every table, keyed by table name. If some schemas cannot be
// used, Latest returns the other tables together with a *MalformedError.
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

// Version returns the given version of a table. If HQ has to be asked, Version blocks until HQ
// answers; concurrent calls for the same version share one request. If HQ denies the version, the
// error is a *DeniedError. Later calls return the same error without a request until a wait, which
// grows with each denial, has passed. If the table's name is reserved for eds, the error is
// poison.
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
		if done == nil { // another caller has asked HQ
			continue
		}
		defer done()
		return c.ask(ctx, key)
	}
}

// claim lets only one caller at a time ask HQ the question q. That caller gets a function, which it
// must call as soon as it has the answer. All other callers wait for that call, and get nil instead
// of a function.
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

// ask reads a version from the cache. If the version is not in the cache, ask reads it from HQ.
func (c *Catalogue) ask(ctx context.Context, key versionKey) (*Table, error) {
	object, err := c.object(ctx, key.table)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	t := c.versions[key] // c.object may have loaded the version
	c.mu.Unlock()
	if t != nil {
		return t, nil
	}
	text, hit, err := c.cache.LoadSchema(object, key.version)
	if err != nil {
		return nil, err
	}
	if hit {
		if t, err = Decode(text); err != nil { // an older eds may have cached a schema that this eds refuses
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
	// The answer is for the requested names, whatever names the schema itself contains.
	t.Name, t.Version = key.table, key.version
	return c.add(object, t), nil
}

// object returns HQ's object name for a table. If HQ lists no object for the table, object returns
// the table's own name.
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

// list fetches the list of all objects. If another caller is already fetching the list, the call
// waits for that caller instead.
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

// known returns a version that is in memory. If the version is denied at present, known returns the
// denial as an error. If the version is neither in memory nor denied, both results are nil.
func (c *Catalogue) known(key versionKey) (*Table, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.versions[key]; t != nil {
		return t, nil
	}
	return nil, c.denied.of(key, time.Now())
}

// deny records that HQ has denied a version, and returns the denial as an error.
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
	fingerprint := t.fingerprint(c.seed)
	for _, layout := range c.layouts[fingerprint] {
		if layout.SameLayout(t) {
			c.versions[key] = layout
			return layout
		}
	}
	c.layouts[fingerprint] = append(c.layouts[fingerprint], t)
	c.versions[key] = t
	return t
}

package schema_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// slowHQ is a fetcher that answers after a second. It is safe for concurrent use.
type slowHQ struct {
	mu      sync.Mutex
	listed  map[string]json.RawMessage
	answers map[string]json.RawMessage // by "object/version"; all other versions are denied
	down    error                      // error for every request, if not nil
	asked   []string
}

func (h *slowHQ) ask(ctx context.Context, what string) error {
	h.mu.Lock()
	h.asked = append(h.asked, what)
	h.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

func (h *slowHQ) LatestSchemas(ctx context.Context) (map[string]json.RawMessage, error) {
	if err := h.ask(ctx, "latest"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listed, nil
}

func (h *slowHQ) Schema(ctx context.Context, object, version string) (json.RawMessage, error) {
	if err := h.ask(ctx, object+"/"+version); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if text, ok := h.answers[object+"/"+version]; ok {
		return text, nil
	}
	return nil, fault.Mark(fault.Poison, errors.New("404 Not Found"))
}

// requests returns the requests made since the last call.
func (h *slowHQ) requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := h.asked
	h.asked = nil
	return asked
}

func text(table, version string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"table":%q,"modelVersion":%q,"primaryKeys":["id"],"properties":{"id":{"type":"string"}}}`, table,
		version))
}

func denied(t *testing.T, err error) *schema.DeniedError {
	t.Helper()
	d, ok := errors.AsType[*schema.DeniedError](err)
	if !ok || fault.Of(err) != fault.Poison {
		t.Fatalf("not a denial: %v", err)
	}
	return d
}

func TestCatalogue_AsksForADeniedVersionAfterGrowingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hq := &slowHQ{}
		c := schema.NewCatalogue(hq, memoryCache{})
		began := time.Now()
		last, asks := began, 0
		for time.Since(began) < 24*time.Hour {
			_, err := c.Version(t.Context(), "order", "v9")
			d := denied(t, err)
			if since := d.Since.Sub(began); since > 3*time.Second {
				t.Fatalf("denied since %v", since)
			}
			again, _ := c.Version(t.Context(), "order", "v9")
			if again != nil {
				t.Fatal("a denied version is known")
			}
			age, wait := time.Since(d.Since), time.Until(d.Next)
			if wait < 125*time.Millisecond || wait > 10*time.Minute || age > time.Minute && (wait < age/5 && wait < 5*time.Minute ||
				wait > age) {
				t.Fatalf("%v after the first denial the wait is %v", age, wait)
			}
			if age < 15*time.Second && wait > 8*time.Second {
				t.Fatalf("%v after the first denial the wait is %v", age, wait)
			}
			last, asks = d.Next, asks+1
			time.Sleep(time.Until(last))
		}
		if asks > 400 {
			t.Errorf("HQ was asked %d times in a day", asks)
		}
	})
}

func TestCatalogue_AsksOnceForManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hq := &slowHQ{listed: map[string]json.RawMessage{"Order": text("order", "v1")}}
		c := schema.NewCatalogue(hq, memoryCache{})
		var all sync.WaitGroup
		ask := func(table, version string) {
			for range 12 {
				all.Go(func() {
					_, err := c.Version(t.Context(), table, version)
					denied(t, err)
				})
			}
			all.Wait()
		}
		ask("order", "v9")
		if diff := cmp.Diff([]string{"latest", "Order/v9"}, hq.requests()); diff != "" {
			t.Error(diff)
		}
		ask("order", "v9")
		time.Sleep(10 * time.Minute)
		ask("order", "v9")
		if diff := cmp.Diff([]string{"Order/v9"}, hq.requests()); diff != "" {
			t.Error(diff)
		}
		ask("unknown", "v1")
		if diff := cmp.Diff([]string{"latest", "unknown/v1"}, hq.requests()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCatalogue_ListsObjectsOnceForManyUnknownTables(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hq := &slowHQ{}
		c := schema.NewCatalogue(hq, memoryCache{})
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				_, err := c.Version(t.Context(), fmt.Sprint("unknown", i), "v1")
				denied(t, err)
			})
		}
		all.Wait()
		lists := 0
		for _, asked := range hq.requests() {
			if asked == "latest" {
				lists++
			}
		}
		if lists != 1 {
			t.Errorf("HQ listed its objects %d times", lists)
		}
	})
}

func TestCatalogue_FindsATableThatHQListsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hq := &slowHQ{}
		c := schema.NewCatalogue(hq, memoryCache{})
		_, err := c.Version(t.Context(), "order", "v1")
		denied(t, err)
		hq.mu.Lock()
		hq.listed = map[string]json.RawMessage{"RepairOrder": text("order", "v2")}
		hq.answers = map[string]json.RawMessage{"RepairOrder/v1": text("order", "v1")}
		hq.mu.Unlock()
		time.Sleep(10 * time.Second)
		if table, err := c.Version(t.Context(), "order", "v1"); err != nil || table.Name != "order" {
			t.Errorf("%v, %v", table, err)
		}
	})
}

func TestCatalogue_ForgetsADenialOnceTheVersionIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hq := &slowHQ{}
		c := schema.NewCatalogue(hq, memoryCache{})
		_, err := c.Version(t.Context(), "order", "v2")
		denied(t, err)
		hq.mu.Lock()
		hq.listed = map[string]json.RawMessage{"RepairOrder": text("order", "v2")}
		hq.mu.Unlock()
		if _, err := c.Latest(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Version(t.Context(), "order", "v2"); err != nil {
			t.Error(err)
		}
	})
}

func TestCatalogue_TakesNoFailureForADenial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hq := &slowHQ{down: errors.New("503 Service Unavailable"), answers: map[string]json.RawMessage{"order/v1": text("order", "v1")}}
		c := schema.NewCatalogue(hq, memoryCache{})
		for range 3 {
			if _, err := c.Version(t.Context(), "order", "v1"); !errors.Is(err, hq.down) || errors.As(err, new(*schema.DeniedError)) {
				t.Errorf("HQ is down: %v", err)
			}
		}
		hq.mu.Lock()
		hq.down = nil
		hq.mu.Unlock()
		if _, err := c.Version(t.Context(), "order", "v1"); err != nil {
			t.Error(err)
		}
	})
}

func TestCatalogue_DeniesAnAnswerThatIsNoSchema(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := memoryCache{"order/v1": json.RawMessage(`{"table":"order"}`)}
		hq := &slowHQ{answers: map[string]json.RawMessage{"order/v1": json.RawMessage(`{"table":"order"}`)}}
		c := schema.NewCatalogue(hq, cache)
		_, err := c.Version(t.Context(), "order", "v1")
		if d := denied(t, err); !strings.Contains(d.Error(), "names no primary key") {
			t.Errorf("%v", d)
		}
		hq.mu.Lock()
		hq.answers["order/v1"] = text("order", "v1")
		hq.mu.Unlock()
		time.Sleep(time.Minute)
		if _, err := c.Version(t.Context(), "order", "v1"); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(string(text("order", "v1")), string(cache["order/v1"])); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCatalogue_ContinuesAfterACallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hq := &slowHQ{answers: map[string]json.RawMessage{"order/v1": text("order", "v1")}}
		c := schema.NewCatalogue(hq, memoryCache{})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := c.Version(ctx, "order", "v1"); !errors.Is(err, context.Canceled) {
				t.Errorf("the caller that gave up: %v", err)
			}
		})
		synctest.Wait()
		for range 3 {
			all.Go(func() {
				if _, err := c.Version(t.Context(), "order", "v1"); err != nil {
					t.Errorf("a caller that did not: %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		all.Wait()
	})
}

func TestCatalogue_BoundsTheDenialsThatItRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hq := &slowHQ{}
		c := schema.NewCatalogue(hq, memoryCache{})
		first, err := c.Version(t.Context(), "order", "kept")
		since := denied(t, err).Since
		for i := range 3000 {
			_, err := c.Version(t.Context(), "order", fmt.Sprint(i))
			denied(t, err)
			if i%500 == 0 { // keeps the denial in use
				_, err = c.Version(t.Context(), "order", "kept")
				if d := denied(t, err); !d.Since.Equal(since) || first != nil {
					t.Fatalf("%v is forgotten", d)
				}
			}
		}
		hq.requests()
		for _, version := range []string{"2999", "2500", "1"} {
			_, err = c.Version(t.Context(), "order", version)
			denied(t, err)
		}
		asked := strings.Join(hq.requests(), " ")
		if !strings.Contains(asked, "order/1") {
			t.Errorf("every denial is remembered: asked for %q", asked)
		}
		_, err = c.Version(t.Context(), "order", strings.Repeat("v", 1<<20))
		if d := denied(t, err); !d.Since.IsZero() || len(d.Error()) > 300 {
			t.Errorf("a long name: %.400v", d)
		}
		_, err = c.Version(t.Context(), strings.Repeat("t", 1<<20), "v1")
		denied(t, err)
		if asked := hq.requests(); len(asked) > 0 {
			t.Errorf("HQ was asked for a long name, %.40q", asked)
		}
	})
}

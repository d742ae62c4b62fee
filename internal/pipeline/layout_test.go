package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// schemaServer replaces HQ: it lists tables, and has the versions that publish has added.
type schemaServer struct {
	mu        sync.Mutex
	published map[string]bool // "table/version"
	refusal   error           // of a version that is not published
	asked     map[string]int  // by "table/version"; "latest" for the list
}

func newSchemaServer(published ...string) *schemaServer {
	s := &schemaServer{published: map[string]bool{}, refusal: fault.Mark(fault.Poison, unknownVersion{}), asked: map[string]int{}}
	s.publish(published...)
	return s
}

func (s *schemaServer) publish(versions ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range versions {
		s.published[v] = true
	}
}

func (s *schemaServer) requests(version string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[version]
}

func schemaText(table, version string) json.RawMessage {
	const format = `{"table":%q,"modelVersion":%q,"primaryKeys":["id"],"properties":{"id":{"type":"string"},"v":{"type":"string"}}}`
	return json.RawMessage(fmt.Sprintf(format, table, version))
}

func (s *schemaServer) LatestSchemas(context.Context) (map[string]json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked["latest"]++
	all := make(map[string]json.RawMessage)
	for v := range s.published {
		table, version, _ := strings.Cut(v, "/")
		all[table] = schemaText(table, version)
	}
	return all, nil
}

func (s *schemaServer) Schema(_ context.Context, object, version string) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := object + "/" + version
	s.asked[key]++
	if !s.published[key] {
		return nil, s.refusal
	}
	return schemaText(object, version), nil
}

// noCache forgets every schema.
type noCache struct{}

func (noCache) LoadSchema(string, string) (json.RawMessage, bool, error) { return nil, false, nil }

func (noCache) SaveSchema(string, string, json.RawMessage) error { return nil }

// of returns an event of the given version of a table.
func of(table, version, id string) string {
	return strings.Replace(put(table, id, "x"), `"v1"`, fmt.Sprintf("%q", version), 1)
}

func TestLayout_WaitsOnceForDeniedVersions(t *testing.T) {
	for name, denied := range map[string]func(i int) string{
		"one version":        func(i int) string { return of("a", "v9", fmt.Sprint(i)) },
		"different versions": func(i int) string { return of("a", fmt.Sprint("v9.", i), fmt.Sprint(i)) },
		"one unknown table":  func(i int) string { return of("z", "v1", fmt.Sprint(i)) },
		"unknown tables":     func(i int) string { return of(fmt.Sprint("z", i), "v1", fmt.Sprint(i)) },
	} {
		for _, run := range []int{1, 5, 256} {
			t.Run(fmt.Sprintf("%s, runs of %d", name, run), func(t *testing.T) {
				var payloads []string
				for i := range 12 {
					payloads = append(payloads, denied(i), put("b", fmt.Sprint(i), "x"))
				}
				inBubble(t, payloads, func(t *testing.T, r *rig) {
					server := newSchemaServer("a/v1", "b/v1")
					r.config.Tables = schema.NewCatalogue(server, noCache{})
					r.source.run = func() int { return run }
					began := time.Now()
					r.mustStart(t)
					if err := r.source.await(t.Context(), 24); err != nil {
						t.Fatal(err)
					}
					if took := time.Since(began); took < 10*time.Second || took > 20*time.Second {
						t.Errorf("24 events took %v", took)
					}
					synctest.Wait()
					equal(t, 12, len(r.mustDeadLetters(t)))
					equal(t, 12, len(r.sink.snapshot()))
					if n := server.requests("latest"); n > 5 {
						t.Errorf("hq was asked %d times for all schemas", n)
					}
					if n := server.requests("a/v9"); n > 20 {
						t.Errorf("hq was asked %d times for one version", n)
					}
				})
			})
		}
	}
}

func TestLayout_DeadLettersLaterEventsOfADeniedVersionAtOnce(t *testing.T) {
	inBubble(t, []string{of("a", "v9", "1")}, func(t *testing.T, r *rig) {
		server := newSchemaServer("a/v1", "b/v1")
		r.config.Tables = schema.NewCatalogue(server, noCache{})
		r.mustStart(t)
		acknowledged := uint64(1)
		if err := r.source.await(t.Context(), acknowledged); err != nil {
			t.Fatal(err)
		}
		for _, later := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour} {
			time.Sleep(later)
			began := time.Now()
			for i := range 12 {
				r.source.publish(of("a", "v9", fmt.Sprint(i)), put("b", fmt.Sprint(i), "x"))
			}
			acknowledged += 24
			if err := r.source.await(t.Context(), acknowledged); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 2*time.Second { // the batch's own latency
				t.Errorf("%v later 24 events took %v", later, took)
			}
		}
		equal(t, 12, len(r.sink.snapshot()))
		equal(t, "", r.Status().Reason)
		if strings.Contains(r.logs.String(), "works again") {
			t.Error("a denial is logged as a recovery")
		}
		asked := server.requests("a/v9")
		server.publish("a/v9")
		time.Sleep(11 * time.Minute)
		r.source.publish(of("a", "v9", "back"))
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		equal(t, 13, len(r.sink.snapshot()))
		equal(t, asked+1, server.requests("a/v9"))
	})
}

func TestLayout_WaitsForVersionsPublishedLate(t *testing.T) {
	inBubble(t, []string{of("a", "v9", "1"), of("a", "v9", "2"), of("z", "v1", "3"), put("b", "4", "x")}, func(t *testing.T, r *rig) {
		server := newSchemaServer("a/v1", "b/v1")
		r.config.Tables = schema.NewCatalogue(server, noCache{})
		r.mustStart(t)
		time.Sleep(6 * time.Second)
		server.publish("a/v9", "z/v1")
		if err := r.source.await(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		equal(t, []string{"a/1", "a/2", "b/4", "z/3"}, sortedKeys(r.sink.snapshot()))
		equal(t, 0, len(r.mustDeadLetters(t)))
	})
}

func TestLayout_RetriesWhileHQIsDown(t *testing.T) {
	inBubble(t, []string{of("a", "v9", "1"), put("b", "2", "x")}, func(t *testing.T, r *rig) {
		server := newSchemaServer("a/v1", "b/v1")
		server.refusal = fmt.Errorf("service unavailable")
		r.config.Tables = schema.NewCatalogue(server, noCache{})
		r.mustStart(t)
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		equal(t, 0, len(r.mustDeadLetters(t)))
		equal(t, `waiting for the schema: fetch the schema of "a", version "v9": service unavailable`, r.Status().Reason)
		server.publish("a/v9")
		if err := r.source.await(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		equal(t, []string{"a/1", "b/2"}, sortedKeys(r.sink.snapshot()))
	})
}

func TestLayout_StopsWhileHQDeniesAVersion(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), of("a", "v9", "2")}, func(t *testing.T, r *rig) {
		r.config.Tables = schema.NewCatalogue(newSchemaServer("a/v1"), noCache{})
		r.mustStart(t)
		time.Sleep(time.Second)
		began := time.Now()
		r.mustStop(t)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the stop took %v", took)
		}
		equal(t, 1, r.source.acknowledged.Sequence)
	})
}

func TestDeadLetter_ContinuesWhileHQDeniesOneTable(t *testing.T) {
	var payloads []string
	for i := range 500 {
		payloads = append(payloads, of("a", "v9", fmt.Sprint(i)), put("b", fmt.Sprint(i), "x"))
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.config.Tables = schema.NewCatalogue(newSchemaServer("a/v1", "b/v1"), noCache{})
		r.mustStart(t)
		if err := r.source.await(t.Context(), 1000); err != nil {
			t.Fatal(err)
		}
		r.mustStop(t)
		equal(t, 500, len(r.mustDeadLetters(t)))
		equal(t, 500, len(r.sink.snapshot()))
	})
}

// TestDeadLetter_StaysWithinTheQueueLimit fills the queue. With a gate, the table then lacks all
// further changes. Without a gate, the run ends before these changes.
func TestDeadLetter_StaysWithinTheQueueLimit(t *testing.T) {
	payloads := []string{
		of("a", "v9", "1"), of("a", "v9", "2"), of("a", "v9", "3"),
		put("b", "1", "x"), put("c", "2", "poison"), "nonsense",
	}
	arrange := func(r *rig) {
		r.config.Tables = schema.NewCatalogue(newSchemaServer("a/v1", "b/v1", "c/v1"), noCache{})
		r.config.MaxRows = 1
		r.source.messages[5].Subject = "dbchange.d.UPDATE.company.location.PUBLIC.x"
		r.dead.Limits.Bytes = 2 * 4096
	}
	withGate(t, payloads, func(r *rig, g *recordingGate) {
		arrange(r)
		g.deadLetters = true
	}, func(t *testing.T, r *rig, g *recordingGate) {
		equal(t, 2, len(r.mustDeadLetters(t)))
		const lost = "changes could not be applied, and the dead-letter queue is full"
		equal(t, []string{"a: " + lost, "c: " + lost, "d: " + lost}, slices.Compact(slices.Sorted(slices.Values(g.lacks))))
		equal(t, []string{"b/1"}, sortedKeys(r.sink.snapshot()))
	})
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		arrange(r)
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal || !errors.Is(err, dlq.ErrFull) {
			t.Errorf("Run: %v", err)
		}
		equal(t, 2, len(r.mustDeadLetters(t)))
		equal(t, 0, len(r.sink.snapshot()))
	})
}

func TestLayout_WaitsWhileHQIsAway(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x")}, func(t *testing.T, r *rig) {
		var back atomic.Bool
		r.layouts.fail = func(table, _ string) error {
			if table == "b" && !back.Load() {
				return errors.New("bad gateway")
			}
			return nil
		}
		r.mustStart(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		equal(t, "waiting for the schema: bad gateway", r.Status().Reason)
		equal(t, 0, len(r.mustDeadLetters(t)))
		back.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, []string{"a/1", "b/2"}, sortedKeys(r.sink.snapshot()))
		equal(t, "", r.Status().Reason)
	})
}

func TestRun_StopDoesNotWaitForASchema(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x"), put("a", "3", "x")}, func(t *testing.T, r *rig) {
		r.layouts.fail = func(table, _ string) error {
			if table == "b" {
				return errors.New("bad gateway")
			}
			return nil
		}
		r.source.run = func() int { return 1 }
		r.mustStart(t)
		time.Sleep(time.Minute)
		r.mustStop(t)
		equal(t, []string{"a/1"}, sortedKeys(r.sink.snapshot())) // not 3, which comes later
		equal(t, 1, r.source.acknowledged.Sequence)
	})
}

// unknownVersion is the error for HQ's answer that a version does not exist.
type unknownVersion struct{}

func (unknownVersion) Error() string { return "no such version" }

func (unknownVersion) NotFound() bool { return true }

func TestLayout_DeadLettersAnUnknownVersionAfterPatience(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x"), put("a", "3", "x")}, func(t *testing.T, r *rig) {
		r.layouts.fail = func(table, _ string) error {
			if table == "b" {
				return fmt.Errorf("fetch the schema: %w", unknownVersion{})
			}
			return nil
		}
		r.mustStart(t)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		equal(t, 0, len(r.mustDeadLetters(t))) // it may have been published a moment ago
		if err := r.source.await(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		equal(t, []string{`2 b schema: the schema of table "b" has no version "v1"`}, r.mustDeadLetters(t))
		equal(t, []string{"a/1", "a/3"}, sortedKeys(r.sink.snapshot()))
	})
}

func TestRun_FatalSchemaErrorAppliesEarlierMessages(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x")}, func(t *testing.T, r *rig) {
		revoked := fault.Mark(fault.Fatal, errors.New("the api key was revoked"))
		r.layouts.fail = func(table, _ string) error {
			if table == "b" {
				return revoked
			}
			return nil
		}
		r.mustStart(t)
		if err := r.finish(); !errors.Is(err, revoked) {
			t.Errorf("Run: %v", err)
		}
		equal(t, []string{"a/1"}, sortedKeys(r.sink.snapshot()))
		equal(t, 1, r.source.acknowledged.Sequence)
	})
}

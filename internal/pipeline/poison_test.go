package pipeline_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/google/go-cmp/cmp"
	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/schema"
)

func TestPoisonInTheMiddleIsSetAsideAndTheRestGoesOn(t *testing.T) {
	var payloads []string
	for i := range 64 {
		payloads = append(payloads, put("a", fmt.Sprint(i), "x"))
	}
	payloads[20] = put("a", "20", "poison")
	payloads[63] = put("a", "63", "poison")
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, 64, r.stream.settled.Sequence)
		equal(t, 64, r.table.checkpoint.Sequence)
		equal(t, 62, len(r.table.snapshot()))
		if r.table.complaint != "" {
			t.Error(r.table.complaint)
		}
		equal(t, []string{"21 a apply: value out of range", "64 a apply: value out of range"}, r.mustLetters(t))
		batches, calls := r.table.committed()
		for i, b := range batches { // in order, and nothing twice
			if i > 0 && b[0] <= batches[i-1][0] {
				t.Errorf("batch %v came after %v", b, batches[i-1])
			}
		}
		if calls > 40 {
			t.Errorf("%d calls", calls)
		}
		s := r.Status()
		equal(t, [3]uint64{62, 0, 2}, [3]uint64{s.Applied, s.Skipped, s.Rejected})
	})
}

func TestALetterTellsAllThatIsKnownOfTheEvent(t *testing.T) {
	event := strings.Replace(put("a", "7", "poison"), `"e"`, `"change-1"`, 1)
	inBubble(t, []string{event, "\x1f\x8bnot gzip", `{"operation":"UPDATE","id":"change-3","table":"a","modelVersion":"v1"}`}, func(t *testing.T, r *rig) {
		r.stream.messages[1].Encoding = "gzip/json"
		r.mustStart(t)
		synctest.Wait()
		var got []dlq.Entry
		for _, m := range r.stream.messages {
			var e dlq.Entry
			for found, err := range r.dead.Read(dlq.Filter{}) {
				if err != nil {
					t.Fatal(err)
				}
				if found.Sequence == m.Position.Sequence {
					e = found
				}
			}
			if e.Stored != m.Position.Stored || e.Time.IsZero() || e.Size != len(e.Payload) {
				t.Errorf("entry %+v", e)
			}
			got = append(got, e)
		}
		want := []dlq.Entry{
			{Sequence: 1, Subject: "dbchange.t", Table: "a", Operation: "UPDATE", EventID: "change-1", Keys: got[0].Keys, Rows: [][]string{got[0].Keys}, Stage: "apply", Reason: "value out of range", Payload: []byte(event)},
			{Sequence: 2, Subject: "dbchange.t", Keys: []string{}, Stage: "decode", Reason: got[1].Reason, Encoding: "gzip/json", Payload: []byte("\x1f\x8bnot gzip")},
			{Sequence: 3, Subject: "dbchange.t", Table: "a", Operation: "UPDATE", EventID: "change-3", Keys: []string{}, Stage: "decode", Reason: "the UPDATE has no row image", Payload: []byte(r.stream.payload(2))},
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(dlq.Entry{}, "ID", "State", "Stored", "Time", "Size"), cmpopts.IgnoreUnexported(dlq.Entry{})); diff != "" {
			t.Error(diff)
		}
		if len(got[0].Keys) != 1 || len(got[0].Keys[0]) < 8 {
			t.Errorf("keys %q", got[0].Keys)
		}
	})
}

// TestPipeline_DeadLettersEventsOfReservedTables: no destination gets to see an event
// whose table has a name that is eds's own, and those around it are applied.
func TestPipeline_DeadLettersEventsOfReservedTables(t *testing.T) {
	payloads := []string{put("a", "1", "x"), put("_eds_checkpoint", "2", "x"), remove("_EDS_Load", "3"), put("_Eds_", "4", "x"), put("a", "5", "x")}
	reason := func(n int, table string) string {
		return fmt.Sprintf("%d %s schema: table %q: names that begin with _eds_ are reserved for eds", n, table, table)
	}
	letters := []string{reason(2, "_eds_checkpoint"), reason(3, "_EDS_Load"), reason(4, "_Eds_")}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, letters, r.mustLetters(t))
		equal(t, []string{"a/1", "a/5"}, sortedKeys(r.table.snapshot()))
		equal(t, 5, r.stream.settled.Sequence)
	})
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		j := &journal{}
		r.config.Sink, r.config.KeepsRows, r.config.Tables = j, false, nil
		r.mustStart(t)
		synctest.Wait()
		equal(t, letters, r.mustLetters(t))
		equal(t, []uint64{1, 5}, j.events)
		equal(t, 5, r.stream.settled.Sequence)
	})
}

// TestPipeline_DeadLettersAnyNumberOfUndecodableEvents: they say nothing about a table.
func TestPipeline_DeadLettersAnyNumberOfUndecodableEvents(t *testing.T) {
	payloads := []string{put("a", "first", "x")}
	for range 150 {
		payloads = append(payloads, "nonsense")
	}
	payloads = append(payloads, put("a", "last", "x"))
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, 150, len(r.mustLetters(t)))
		equal(t, []string{"a/first", "a/last"}, sortedKeys(r.table.snapshot()))
		equal(t, 152, r.stream.settled.Sequence)
	})
}

func TestPipeline_StopsIfTooManyEventsOfATableAreRefused(t *testing.T) {
	history := func(good, bad int) []string {
		var payloads []string
		for i := range bad {
			payloads = append(payloads, put("a", fmt.Sprint("bad", i), "poison"))
			for j := range good {
				payloads = append(payloads, put("a", fmt.Sprint(i, j), "x"))
			}
		}
		return payloads
	}
	inBubble(t, history(0, 100), func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, 100, len(r.mustLetters(t)))
	})
	inBubble(t, history(0, 101), func(t *testing.T, r *rig) {
		r.mustStart(t)
		err := r.finish()
		if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "more than 100 of the last 1000 changes") {
			t.Errorf("Run: %v", err)
		}
		if r.stream.settled.Sequence > 100 {
			t.Errorf("%d messages are settled", r.stream.settled.Sequence)
		}
	})
	inBubble(t, history(9, 150), func(t *testing.T, r *rig) { // one in ten is just not too many
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, 150, len(r.mustLetters(t)))
	})
	inBubble(t, history(8, 150), func(t *testing.T, r *rig) {
		r.config.MaxRows = 50
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestTooManyRefusalsAreFatalWhereverTheyAreFound(t *testing.T) {
	var payloads []string
	for i := range 101 {
		payloads = append(payloads, put("a", fmt.Sprint(i), "poison"))
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "value out of range") {
			t.Errorf("Run: %v", err)
		}
		equal(t, 100, len(r.mustLetters(t)))
		equal(t, 0, r.stream.settled.Sequence)
	})
}

func TestAPanicIsTheFaultOfOneEvent(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x"), put("a", "3", "x")}, func(t *testing.T, r *rig) {
		r.config.Rules = ruleFunc(func(e *cdc.Event) (bool, string, string) {
			if e.Table == "b" {
				panic("a value: " + string(e.After))
			}
			return false, "", ""
		})
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"a/1", "a/3"}, sortedKeys(r.table.snapshot()))
		equal(t, []string{"2  decode: the decoder panicked: string, unknown"}, r.mustLetters(t))
		if !strings.Contains(r.logs.String(), "poison_test.go") {
			t.Error("the log does not say where")
		}
	})
}

func TestAPanicOfTheSinkIsTheFaultOfOneEventToo(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("a", "2", "boom"), put("a", "3", "x")}, func(t *testing.T, r *rig) {
		r.table.before = func(_ int, b *change.Batch) error {
			for _, e := range b.Events {
				if strings.Contains(string(e.After), "boom") {
					panic(errors.New("a value: " + string(e.After)))
				}
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"a/1", "a/3"}, sortedKeys(r.table.snapshot()))
		equal(t, []string{"2 a apply: the destination's driver panicked: *errors.errorString"}, r.mustLetters(t))
	})
}

func TestPoisonInABatchWithoutEventsIsFatal(t *testing.T) {
	inBubble(t, []string{"nonsense"}, func(t *testing.T, r *rig) {
		r.table.before = func(int, *change.Batch) error { return fault.Mark(fault.Poison, errors.New("what event?")) }
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestTheDeadLetterIsDurableBeforeTheCheckpointPassesIt(t *testing.T) {
	inBubble(t, []string{"nonsense", put("a", "2", "x")}, func(t *testing.T, r *rig) {
		r.table.before = func(_ int, b *change.Batch) error {
			if all, err := letters(r.dead); b.Last.Sequence >= 1 && (err != nil || len(all) == 0) {
				t.Error("the checkpoint passes an event that is nowhere")
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		equal(t, 2, r.table.checkpoint.Sequence)
	})
}

func TestANewerChangeOfTheRowSupersedesALetter(t *testing.T) {
	inBubble(t, []string{
		put("a", "1", "poison"), put("a", "2", "poison"), put("b", "3", "poison"), "nonsense", put("a", "9", "x"),
	}, func(t *testing.T, r *rig) {
		r.config.MaxRows = 1
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{
			"1 a apply: value out of range", "2 a apply: value out of range", "3 b apply: value out of range",
			"4  decode: not valid json at byte 0: want an object, unknown",
		}, r.mustLetters(t))
		r.stream.publish(put("a", "1", "y"), remove("a", "2"))
		synctest.Wait()
		equal(t, []string{
			"1 a apply: value out of range, superseded", "2 a apply: value out of range, superseded", "3 b apply: value out of range",
			"4  decode: not valid json at byte 0: want an object, unknown",
		}, r.mustLetters(t))
	})
}

func TestSupersede_KnowsLettersOfEveryStage(t *testing.T) {
	inBubble(t, []string{of("a", "v9", "1"), of("a", "v9", "2"), `{"operation":"UPDATE","id":"e","table":"a","modelVersion":"v1","key":["c","3"]}`, put("a", "4", "poison")}, func(t *testing.T, r *rig) {
		r.layouts.fail = func(_, version string) error {
			if version == "v9" {
				return unknown{}
			}
			return nil
		}
		r.mustStart(t)
		if err := r.stream.await(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		denied := `a schema: the schema of table "a" has no version "v9"`
		equal(t, []string{"1 " + denied, "2 " + denied, "3 a decode: the UPDATE has no row image", "4 a apply: value out of range"}, r.mustLetters(t))
		r.stream.publish(put("a", "1", "y"), put("a", "3", "y"), put("b", "2", "y"), remove("a", "4"))
		if err := r.stream.await(t.Context(), 8); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		equal(t, []string{"1 " + denied + ", superseded", "2 " + denied, "3 a decode: the UPDATE has no row image, superseded", "4 a apply: value out of range, superseded"}, r.mustLetters(t))
	})
}

// move is a row that changes its key.
func move(table, from, to, v string) string {
	return fmt.Sprintf(`{"operation":"UPDATE","id":"e","table":%q,"modelVersion":"v1","key":[%q],"before":{"id":%q},"after":{"id":%q,"v":%q},"timestamp":1}`, table, to, from, to, v)
}

// TestALetterThatMovesARow leaves the row's old place, which the source does not have any
// more, and waits for the new one.
func TestALetterThatMovesARow(t *testing.T) {
	inBubble(t, []string{put("a", "A", "x"), put("a", "C", "x"), move("a", "A", "B", "poison"), put("a", "D", "x")}, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"3 a apply: value out of range"}, r.mustLetters(t))
		equal(t, map[string]string{"a/C": "id=C v=x", "a/D": "id=D v=x"}, r.table.snapshot())
		r.stream.publish(put("a", "A", "another")) // which uses the key again
		synctest.Wait()
		equal(t, []string{"3 a apply: value out of range"}, r.mustLetters(t))
		r.stream.publish(put("a", "B", "good"))
		synctest.Wait()
		equal(t, []string{"3 a apply: value out of range, superseded"}, r.mustLetters(t))
		equal(t, map[string]string{"a/A": "id=A v=another", "a/B": "id=B v=good", "a/C": "id=C v=x", "a/D": "id=D v=x"}, r.table.snapshot())
	})
}

// TestALetterThatMovesARow_OfAPlaceThatCannotBeLeft keeps both parts.
func TestALetterThatMovesARow_OfAPlaceThatCannotBeLeft(t *testing.T) {
	inBubble(t, []string{put("a", "A", "x"), move("a", "A", "B", "y")}, func(t *testing.T, r *rig) {
		r.table.before = func(_ int, b *change.Batch) error {
			for _, s := range b.Sets {
				if len(s.Deletes) > 0 {
					return fault.Mark(fault.Poison, errors.New("a row refers to it"))
				}
			}
			return nil
		}
		r.config.MaxRows = 1
		r.mustStart(t)
		synctest.Wait()
		equal(t, map[string]string{"a/A": "id=A v=x"}, r.table.snapshot())
		equal(t, 2, r.table.checkpoint.Sequence)
		r.stream.publish(put("a", "B", "good"))
		synctest.Wait()
		equal(t, []string{"2 a apply: a row refers to it"}, r.mustLetters(t)) // A is still there
		r.stream.publish(remove("a", "C"), put("a", "A", "good"))
		synctest.Wait()
		equal(t, "2 a apply: a row refers to it, superseded", r.mustLetters(t)[0])
	})
}

// TestFiveMessagesOfGarbage stay visible, whatever comes after them.
func TestFiveMessagesOfGarbage(t *testing.T) {
	inBubble(t, []string{"nonsense", "{", "[]", "\x00", `{"operation":"UPDATE"`}, func(t *testing.T, r *rig) {
		registry := prometheus.NewRegistry()
		r.config.Metrics = pipeline.NewMetrics(registry)
		for i := range r.stream.messages {
			r.stream.messages[i].Subject = "dbchange.a.UPDATE.company.location.PUBLIC.x"
		}
		r.mustStart(t)
		synctest.Wait()
		r.stream.publish(put("a", "1", "x"), put("b", "1", "x"), remove("a", "1"))
		synctest.Wait()
		equal(t, dlq.Counts{Unknown: 5}, r.dead.Count(""))
		lines := gathered(t, registry)
		for _, want := range []string{"eds_dead_letters: 5", "eds_dead_letters_unknown: 5"} {
			if !slices.Contains(lines, want) {
				t.Errorf("there is no %q", want)
			}
		}
	})
}

func TestALetterOfTheSameBatchIsSupersededToo(t *testing.T) {
	inBubble(t, []string{put("a", "1", "before"), put("a", "1", "poison"), put("a", "2", "poison"), put("a", "1", "after")}, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"2 a apply: value out of range, superseded", "3 a apply: value out of range"}, r.mustLetters(t))
		equal(t, map[string]string{"a/1": "id=1 v=after"}, r.table.snapshot())
	})
}

// TestALetterThatIsAppliedAfterAll is superseded: events are read again, by lanes and after
// crashes, and the destination may accept one that it refused before.
func TestALetterThatIsAppliedAfterAll(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), move("a", "A", "B", "x"), put("a", "2", "poison")}, func(t *testing.T, r *rig) {
		r.table.before = func(_ int, b *change.Batch) error {
			if len(b.Events) > 0 {
				return fault.Mark(fault.Poison, errors.New("not yet"))
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, dlq.Counts{Waiting: 3}, r.dead.Count(""))
		again := newTable()
		r.table, r.config.Sink, r.stream.settled = again, again, cdc.Position{}
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"1 a apply: not yet, superseded", "2 a apply: not yet, superseded", "3 a apply: value out of range"}, r.mustLetters(t))
		equal(t, map[string]string{"a/1": "id=1 v=x", "a/B": "id=B v=x"}, r.table.snapshot())
	})
}

func TestAnEventThatCanNotBeReadHasTheTableOfItsSubject(t *testing.T) {
	inBubble(t, []string{"nonsense", put("b", "2", "x")}, func(t *testing.T, r *rig) {
		r.config.MaxRows = 1
		r.stream.messages[0].Subject = "dbchange.a.DELETE.company.location.PUBLIC.x"
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"1 a decode: not valid json at byte 0: want an object, unknown"}, r.mustLetters(t))
		r.stream.publish(put("a", "3", "x"))
		synctest.Wait()
		equal(t, []string{"1 a decode: not valid json at byte 0: want an object, unknown"}, r.mustLetters(t))
	})
}

func TestASchemaIsWaitedForWhileHQIsAway(t *testing.T) {
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
		equal(t, 0, len(r.mustLetters(t)))
		back.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, []string{"a/1", "b/2"}, sortedKeys(r.table.snapshot()))
		equal(t, "", r.Status().Reason)
	})
}

func TestAStopDoesNotWaitForASchema(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x"), put("a", "3", "x")}, func(t *testing.T, r *rig) {
		r.layouts.fail = func(table, _ string) error {
			if table == "b" {
				return errors.New("bad gateway")
			}
			return nil
		}
		r.stream.run = func() int { return 1 }
		r.mustStart(t)
		time.Sleep(time.Minute)
		r.mustStop(t)
		equal(t, []string{"a/1"}, sortedKeys(r.table.snapshot())) // and not 3, which comes behind
		equal(t, 1, r.stream.settled.Sequence)
	})
}

// unknown says, as HQ does, that there is no such version.
type unknown struct{}

func (unknown) Error() string  { return "no such version" }
func (unknown) NotFound() bool { return true }

func TestAVersionThatHQDoesNotKnowIsPoisonAfterAWhile(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x"), put("a", "3", "x")}, func(t *testing.T, r *rig) {
		r.layouts.fail = func(table, _ string) error {
			if table == "b" {
				return fmt.Errorf("fetch the schema: %w", unknown{})
			}
			return nil
		}
		r.mustStart(t)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		equal(t, 0, len(r.mustLetters(t))) // it may have been published a moment ago
		if err := r.stream.await(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		equal(t, []string{`2 b schema: the schema of table "b" has no version "v1"`}, r.mustLetters(t))
		equal(t, []string{"a/1", "a/3"}, sortedKeys(r.table.snapshot()))
	})
}

func TestAFatalSchemaErrorEndsTheRunAfterWhatCameBefore(t *testing.T) {
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
		equal(t, []string{"a/1"}, sortedKeys(r.table.snapshot()))
		equal(t, 1, r.stream.settled.Sequence)
	})
}

// TestPipeline_DeadLettersEventsOfTablesThatCannotBe: no gate and no destination gets to
// see a name that it could not record, or that means something else to it.
func TestPipeline_DeadLettersEventsOfTablesThatCannotBe(t *testing.T) {
	names := []string{"*", "a b", "a.b", ">", `a\u0000b`, "\xff", `\n`, strings.Repeat("x", 5000), "\u00a0"}
	var payloads []string
	for i, name := range names {
		payloads = append(payloads, strings.Replace(put("TABLE", fmt.Sprint(i), "x"), "TABLE", name, 1))
	}
	gated(t, append(payloads, put("a", "1", "x")), func(*rig, *gate) {}, func(t *testing.T, r *rig, g *gate) {
		equal(t, nil, g.failures())
		equal(t, []string{"a/1"}, sortedKeys(r.table.snapshot()))
		for i, letter := range r.mustLetters(t) {
			if !strings.Contains(letter, " schema: table ") || !strings.HasSuffix(letter, schema.ErrName.Error()) || i >= len(names) {
				t.Errorf("%.200q", letter)
			}
		}
		equal(t, len(names), r.dead.Count("").Lacks())
	})
}

// TestALetterOfAnOddTable is told of by a label that is valid text.
func TestALetterOfAnOddTable(t *testing.T) {
	inBubble(t, []string{"nonsense", "nonsense", put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.stream.messages[0].Subject = "dbchange.\xff.UPDATE.company.location.PUBLIC.x"
		r.stream.messages[1].Subject = "dbchange." + strings.Repeat("ä", 200) + "a.UPDATE.company.location.PUBLIC.x"
		r.mustStart(t)
		synctest.Wait()
		equal(t, dlq.Counts{Unknown: 2}, r.dead.Count(""))
		equal(t, []string{"a/1"}, sortedKeys(r.table.snapshot()))
	})
}

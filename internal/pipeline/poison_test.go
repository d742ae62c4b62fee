package pipeline_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

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

func TestApply_BisectsABatchToDeadLetterPoison(t *testing.T) {
	var payloads []string
	for i := range 64 {
		payloads = append(payloads, put("a", fmt.Sprint(i), "x"))
	}
	payloads[20] = put("a", "20", "poison")
	payloads[63] = put("a", "63", "poison")
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, 64, r.source.acknowledged.Sequence)
		equal(t, 64, r.sink.checkpoint.Sequence)
		equal(t, 62, len(r.sink.snapshot()))
		if r.sink.violation != "" {
			t.Error(r.sink.violation)
		}
		equal(t, []string{"21 a apply: value out of range", "64 a apply: value out of range"}, r.mustDeadLetters(t))
		batches, calls := r.sink.committed()
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

func TestDeadLetter_HasEverythingKnownAboutTheEvent(t *testing.T) {
	event := strings.Replace(put("a", "7", "poison"), `"e"`, `"change-1"`, 1)
	imageless := `{"operation":"UPDATE","id":"change-3","table":"a","modelVersion":"v1"}`
	inBubble(t, []string{event, "\x1f\x8bnot gzip", imageless}, func(t *testing.T, r *rig) {
		r.source.messages[1].Encoding = "gzip/json"
		r.mustStart(t)
		synctest.Wait()
		var got []dlq.Entry
		for _, m := range r.source.messages {
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
			{
				Sequence: 1, Subject: "dbchange.t", Table: "a", Operation: "UPDATE", EventID: "change-1",
				Keys: got[0].Keys, Rows: [][]string{got[0].Keys}, Stage: "apply", Reason: "value out of range", Payload: []byte(event),
			},
			{
				Sequence: 2, Subject: "dbchange.t", Keys: []string{}, Stage: "decode", Reason: got[1].Reason,
				Encoding: "gzip/json", Payload: []byte("\x1f\x8bnot gzip"),
			},
			{
				Sequence: 3, Subject: "dbchange.t", Table: "a", Operation: "UPDATE", EventID: "change-3", Keys: []string{},
				Stage: "decode", Reason: "the UPDATE has no row image", Payload: r.source.payload(2),
			},
		}
		ignored := cmp.Options{
			cmpopts.IgnoreFields(dlq.Entry{}, "ID", "State", "Stored", "Time", "Size"), cmpopts.IgnoreUnexported(dlq.Entry{}),
		}
		if diff := cmp.Diff(want, got, ignored); diff != "" {
			t.Error(diff)
		}
		if len(got[0].Keys) != 1 || len(got[0].Keys[0]) < 8 {
			t.Errorf("keys %q", got[0].Keys)
		}
	})
}

// TestPipeline_DeadLettersEventsOfReservedTables has tables with names that are reserved for eds.
// No destination sees their events; the events around them are applied.
func TestPipeline_DeadLettersEventsOfReservedTables(t *testing.T) {
	payloads := []string{
		put("a", "1", "x"), put("_eds_checkpoint", "2", "x"), remove("_EDS_Load", "3"), put("_Eds_", "4", "x"), put("a", "5", "x"),
	}
	reason := func(n int, table string) string {
		return fmt.Sprintf("%d %s schema: table %q: names that begin with _eds_ are reserved for eds", n, table, table)
	}
	rejected := []string{reason(2, "_eds_checkpoint"), reason(3, "_EDS_Load"), reason(4, "_Eds_")}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, rejected, r.mustDeadLetters(t))
		equal(t, []string{"a/1", "a/5"}, sortedKeys(r.sink.snapshot()))
		equal(t, 5, r.source.acknowledged.Sequence)
	})
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		j := &historySink{}
		r.config.Sink, r.config.KeepsRows, r.config.Tables = j, false, nil
		r.mustStart(t)
		synctest.Wait()
		equal(t, rejected, r.mustDeadLetters(t))
		equal(t, []uint64{1, 5}, j.events)
		equal(t, 5, r.source.acknowledged.Sequence)
	})
}

// TestPipeline_DeadLettersAnyNumberOfUndecodableEvents: they do not count as failures of a table.
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
		equal(t, 150, len(r.mustDeadLetters(t)))
		equal(t, []string{"a/first", "a/last"}, sortedKeys(r.sink.snapshot()))
		equal(t, 152, r.source.acknowledged.Sequence)
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
		equal(t, 100, len(r.mustDeadLetters(t)))
	})
	inBubble(t, history(0, 101), func(t *testing.T, r *rig) {
		r.mustStart(t)
		err := r.finish()
		if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "more than 100 of the last 1000 changes") {
			t.Errorf("Run: %v", err)
		}
		if r.source.acknowledged.Sequence > 100 {
			t.Errorf("%d messages are acknowledged", r.source.acknowledged.Sequence)
		}
	})
	inBubble(t, history(9, 150), func(t *testing.T, r *rig) { // one in ten is at the limit
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, 150, len(r.mustDeadLetters(t)))
	})
	inBubble(t, history(8, 150), func(t *testing.T, r *rig) {
		r.config.MaxRows = 50
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestPipeline_StopsIfOneBatchHasTooManyRefusedEvents(t *testing.T) {
	var payloads []string
	for i := range 101 {
		payloads = append(payloads, put("a", fmt.Sprint(i), "poison"))
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "value out of range") {
			t.Errorf("Run: %v", err)
		}
		equal(t, 100, len(r.mustDeadLetters(t)))
		equal(t, 0, r.source.acknowledged.Sequence)
	})
}

func TestDecode_DeadLettersAnEventThatPanics(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x"), put("a", "3", "x")}, func(t *testing.T, r *rig) {
		r.config.Rules = ruleFunc(func(e *cdc.Event) (bool, string, string) {
			if e.Table == "b" {
				panic("a value: " + string(e.After))
			}
			return false, "", ""
		})
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"a/1", "a/3"}, sortedKeys(r.sink.snapshot()))
		equal(t, []string{"2  decode: the decoder panicked: string, unknown"}, r.mustDeadLetters(t))
		if !strings.Contains(r.logs.String(), "poison_test.go") {
			t.Error("the log does not say where")
		}
	})
}

func TestApply_DeadLettersAnEventThatPanicsTheSink(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("a", "2", "boom"), put("a", "3", "x")}, func(t *testing.T, r *rig) {
		r.sink.before = func(_ int, b *change.Batch) error {
			for _, e := range b.Events {
				if strings.Contains(string(e.After), "boom") {
					panic(errors.New("a value: " + string(e.After)))
				}
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"a/1", "a/3"}, sortedKeys(r.sink.snapshot()))
		equal(t, []string{"2 a apply: the destination's driver panicked: *errors.errorString"}, r.mustDeadLetters(t))
	})
}

func TestApply_PoisonWithoutEventsIsFatal(t *testing.T) {
	inBubble(t, []string{"nonsense"}, func(t *testing.T, r *rig) {
		r.sink.before = func(int, *change.Batch) error { return fault.Mark(fault.Poison, errors.New("no event is bad")) }
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestDeadLetter_IsDurableBeforeTheCheckpoint(t *testing.T) {
	inBubble(t, []string{"nonsense", put("a", "2", "x")}, func(t *testing.T, r *rig) {
		r.sink.before = func(_ int, b *change.Batch) error {
			if all, err := deadLetters(r.dead); b.Last.Sequence >= 1 && (err != nil || len(all) == 0) {
				t.Error("the checkpoint passes an event that is not stored")
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		equal(t, 2, r.sink.checkpoint.Sequence)
	})
}

func TestSupersede_MarksDeadLettersOfTheSameRow(t *testing.T) {
	inBubble(t, []string{
		put("a", "1", "poison"), put("a", "2", "poison"), put("b", "3", "poison"), "nonsense", put("a", "9", "x"),
	}, func(t *testing.T, r *rig) {
		r.config.MaxRows = 1
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{
			"1 a apply: value out of range", "2 a apply: value out of range", "3 b apply: value out of range",
			"4  decode: not valid json at byte 0: want an object, unknown",
		}, r.mustDeadLetters(t))
		r.source.publish(put("a", "1", "y"), remove("a", "2"))
		synctest.Wait()
		equal(t, []string{
			"1 a apply: value out of range, superseded", "2 a apply: value out of range, superseded", "3 b apply: value out of range",
			"4  decode: not valid json at byte 0: want an object, unknown",
		}, r.mustDeadLetters(t))
	})
}

func TestSupersede_MarksDeadLettersOfEveryStage(t *testing.T) {
	imageless := `{"operation":"UPDATE","id":"e","table":"a","modelVersion":"v1","key":["c","3"]}`
	inBubble(t, []string{of("a", "v9", "1"), of("a", "v9", "2"), imageless, put("a", "4", "poison")}, func(t *testing.T, r *rig) {
		r.layouts.fail = func(_, version string) error {
			if version == "v9" {
				return unknownVersion{}
			}
			return nil
		}
		r.mustStart(t)
		if err := r.source.await(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		denied := `a schema: the schema of table "a" has no version "v9"`
		const third, fourth = "3 a decode: the UPDATE has no row image", "4 a apply: value out of range"
		equal(t, []string{"1 " + denied, "2 " + denied, third, fourth}, r.mustDeadLetters(t))
		r.source.publish(put("a", "1", "y"), put("a", "3", "y"), put("b", "2", "y"), remove("a", "4"))
		if err := r.source.await(t.Context(), 8); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		const superseded = ", superseded"
		equal(t, []string{"1 " + denied + superseded, "2 " + denied, third + superseded, fourth + superseded}, r.mustDeadLetters(t))
	})
}

// move returns an event that changes the key of a row.
func move(table, from, to, v string) string {
	return fmt.Sprintf(`{"operation":"UPDATE","id":"e","table":%q,"modelVersion":"v1","key":[%q],"before":{"id":%q},`+
		`"after":{"id":%q,"v":%q},"timestamp":1}`, table, to, from, to, v)
}

// TestDeadLetter_DeletesTheOldRowOfAMove deletes the row with the old key, which the source no
// longer has. The dead letter waits for a row with the new key.
func TestDeadLetter_DeletesTheOldRowOfAMove(t *testing.T) {
	payloads := []string{put("a", "A", "x"), put("a", "C", "x"), move("a", "A", "B", "poison"), put("a", "D", "x")}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"3 a apply: value out of range"}, r.mustDeadLetters(t))
		equal(t, map[string]string{"a/C": "id=C v=x", "a/D": "id=D v=x"}, r.sink.snapshot())
		r.source.publish(put("a", "A", "another")) // which uses the key again
		synctest.Wait()
		equal(t, []string{"3 a apply: value out of range"}, r.mustDeadLetters(t))
		r.source.publish(put("a", "B", "good"))
		synctest.Wait()
		equal(t, []string{"3 a apply: value out of range, superseded"}, r.mustDeadLetters(t))
		rows := map[string]string{"a/A": "id=A v=another", "a/B": "id=B v=good", "a/C": "id=C v=x", "a/D": "id=D v=x"}
		equal(t, rows, r.sink.snapshot())
	})
}

// TestDeadLetter_KeepsAMoveWhoseOldRowCannotBeDeleted supersedes the dead letter only after changes
// of both rows.
func TestDeadLetter_KeepsAMoveWhoseOldRowCannotBeDeleted(t *testing.T) {
	inBubble(t, []string{put("a", "A", "x"), move("a", "A", "B", "y")}, func(t *testing.T, r *rig) {
		r.sink.before = func(_ int, b *change.Batch) error {
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
		equal(t, map[string]string{"a/A": "id=A v=x"}, r.sink.snapshot())
		equal(t, 2, r.sink.checkpoint.Sequence)
		r.source.publish(put("a", "B", "good"))
		synctest.Wait()
		equal(t, []string{"2 a apply: a row refers to it"}, r.mustDeadLetters(t)) // A is still there
		r.source.publish(remove("a", "C"), put("a", "A", "good"))
		synctest.Wait()
		equal(t, "2 a apply: a row refers to it, superseded", r.mustDeadLetters(t)[0])
	})
}

// TestDeadLetter_KeepsGarbageVisible: messages that cannot be decoded are never superseded.
func TestDeadLetter_KeepsGarbageVisible(t *testing.T) {
	inBubble(t, []string{"nonsense", "{", "[]", "\x00", `{"operation":"UPDATE"`}, func(t *testing.T, r *rig) {
		registry := prometheus.NewRegistry()
		r.config.Metrics = pipeline.NewMetrics(registry)
		for i := range r.source.messages {
			r.source.messages[i].Subject = "dbchange.a.UPDATE.company.location.PUBLIC.x"
		}
		r.mustStart(t)
		synctest.Wait()
		r.source.publish(put("a", "1", "x"), put("b", "1", "x"), remove("a", "1"))
		synctest.Wait()
		equal(t, dlq.EntryCounts{Unknown: 5}, r.dead.Count(""))
		lines := gathered(t, registry)
		for _, want := range []string{"eds_dead_letters: 5", "eds_dead_letters_unknown: 5"} {
			if !slices.Contains(lines, want) {
				t.Errorf("there is no %q", want)
			}
		}
	})
}

func TestSupersede_MarksDeadLettersOfTheSameBatch(t *testing.T) {
	payloads := []string{put("a", "1", "before"), put("a", "1", "poison"), put("a", "2", "poison"), put("a", "1", "after")}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"2 a apply: value out of range, superseded", "3 a apply: value out of range"}, r.mustDeadLetters(t))
		equal(t, map[string]string{"a/1": "id=1 v=after"}, r.sink.snapshot())
	})
}

// TestSupersede_MarksDeadLettersOfEventsAppliedLater reads events again, like lanes and runs after
// crashes. The destination may accept an event that it has refused before.
func TestSupersede_MarksDeadLettersOfEventsAppliedLater(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), move("a", "A", "B", "x"), put("a", "2", "poison")}, func(t *testing.T, r *rig) {
		r.sink.before = func(_ int, b *change.Batch) error {
			if len(b.Events) > 0 {
				return fault.Mark(fault.Poison, errors.New("not yet"))
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, dlq.EntryCounts{Waiting: 3}, r.dead.Count(""))
		again := newMemorySink()
		r.sink, r.config.Sink, r.source.acknowledged = again, again, cdc.Position{}
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{
			"1 a apply: not yet, superseded", "2 a apply: not yet, superseded", "3 a apply: value out of range",
		}, r.mustDeadLetters(t))
		equal(t, map[string]string{"a/1": "id=1 v=x", "a/B": "id=B v=x"}, r.sink.snapshot())
	})
}

func TestDeadLetter_TakesTheTableFromTheSubject(t *testing.T) {
	inBubble(t, []string{"nonsense", put("b", "2", "x")}, func(t *testing.T, r *rig) {
		r.config.MaxRows = 1
		r.source.messages[0].Subject = "dbchange.a.DELETE.company.location.PUBLIC.x"
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"1 a decode: not valid json at byte 0: want an object, unknown"}, r.mustDeadLetters(t))
		r.source.publish(put("a", "3", "x"))
		synctest.Wait()
		equal(t, []string{"1 a decode: not valid json at byte 0: want an object, unknown"}, r.mustDeadLetters(t))
	})
}

// TestPipeline_DeadLettersEventsOfInvalidTables has names that a gate or a destination cannot
// store, or would take for something else.
func TestPipeline_DeadLettersEventsOfInvalidTables(t *testing.T) {
	names := []string{"*", "a b", "a.b", ">", `a\u0000b`, "\xff", `\n`, strings.Repeat("x", 5000), "\u00a0"}
	var payloads []string
	for i, name := range names {
		payloads = append(payloads, strings.Replace(put("TABLE", fmt.Sprint(i), "x"), "TABLE", name, 1))
	}
	withGate(t, append(payloads, put("a", "1", "x")), func(*rig, *recordingGate) {}, func(t *testing.T, r *rig, g *recordingGate) {
		equal(t, nil, g.failures())
		equal(t, []string{"a/1"}, sortedKeys(r.sink.snapshot()))
		for i, letter := range r.mustDeadLetters(t) {
			if i >= len(names) || !strings.Contains(letter, " schema: table ") || !strings.HasSuffix(letter, schema.ErrName.Error()) {
				t.Errorf("%.200q", letter)
			}
		}
		equal(t, len(names), r.dead.Count("").Lacks())
	})
}

// TestDeadLetter_LabelsAreValidText has table names that are too long or not valid UTF-8.
func TestDeadLetter_LabelsAreValidText(t *testing.T) {
	inBubble(t, []string{"nonsense", "nonsense", put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.source.messages[0].Subject = "dbchange.\xff.UPDATE.company.location.PUBLIC.x"
		r.source.messages[1].Subject = "dbchange." + strings.Repeat("ä", 200) + "a.UPDATE.company.location.PUBLIC.x"
		r.mustStart(t)
		synctest.Wait()
		equal(t, dlq.EntryCounts{Unknown: 2}, r.dead.Count(""))
		equal(t, []string{"a/1"}, sortedKeys(r.sink.snapshot()))
	})
}

package continuity

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestWatch_ComparesWithTheLastLook(t *testing.T) {
	for name, c := range map[string]struct {
		last, now Look
		want      LossVerdict
	}{
		"nothing is dropped":                        {Look{Sent: 20, Next: 21, Last: 90}, Look{Deliveries: 9, First: 1}, Kept},
		"all sent messages are dropped":             {Look{Sent: 20, Next: 21, Last: 90}, Look{Deliveries: 9, First: 21}, Kept},
		"some sent later are dropped":               {Look{Sent: 20, Next: 21, Last: 90}, Look{Deliveries: 9, First: 22}, Unknown},
		"the next one is dropped":                   {Look{Sent: 20, Next: 30, Last: 90}, Look{First: 31}, Dropped},
		"others' are dropped before the next one":   {Look{Sent: 20, Next: 30, Last: 90}, Look{First: 30}, Kept},
		"others' are dropped, and there is no next": {Look{Sent: 20, Last: 90}, Look{First: 91}, Kept},
		"others' have taken the place of all":       {Look{Sent: 20, Last: 90}, Look{First: 92}, Unknown},
		"fewer wait":                                {Look{Sent: 20, Last: 20}, Look{Fewer: true, First: 92}, Dropped},
		"the server had more to send": {
			Look{Sent: 20, Next: 21, Last: 90}, Look{Sent: 49, Deliveries: 9, Behind: true, First: 50}, Dropped,
		},
		"the server had more to send after First": {
			Look{Sent: 20, Next: 21, Last: 90}, Look{Sent: 50, Deliveries: 9, Behind: true, First: 50}, Unknown,
		},
		"fewer wait, and nothing is dropped": {Look{Sent: 20, Last: 20}, Look{Fewer: true, First: 21}, Kept},
	} {
		var w Watch
		w.Begin(10)
		w.Update(c.last)
		if got := w.Since(c.now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestWatch_IsNeverSilentAboutALoss: other tenants also write to the stream, and the stream drops
// its oldest messages while a reader receives messages.
func TestWatch_IsNeverSilentAboutALoss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ours []bool // ours and unsent, by sequence - 1
		first, sent, deliveries, lost := uint64(1), uint64(0), uint64(0), false
		var w Watch
		w.Begin(0)
		worst := Kept
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			last := uint64(len(ours))
			switch rapid.SampledFrom([]string{"publish", "drop", "read", "look"}).Draw(t, "step") {
			case "publish":
				ours = append(ours, rapid.SliceOfN(rapid.Bool(), 1, 5).Draw(t, "messages")...)
			case "drop":
				to := rapid.Uint64Range(first, last+1).Draw(t, "first")
				lost = lost || slices.Contains(ours[first-1:to-1], true)
				first = to
				if rapid.Bool().Draw(t, "purged") {
					sent = max(sent, first-1)
				}
			case "read":
				for sent = max(sent, first-1); sent < last && rapid.Bool().Draw(t, "more"); sent++ {
					if ours[sent] {
						deliveries++
						ours[sent] = false
					}
				}
			case "look":
				l := Look{Sent: sent, Deliveries: deliveries, Last: last, First: first}
				for n := max(sent+1, first); n <= last && l.Next == 0; n++ {
					if ours[n-1] {
						l.Next = n
					}
				}
				v := w.Since(l)
				if v == Dropped && !lost {
					t.Fatalf("a false alarm at %+v after %+v", l, w)
				}
				worst = max(worst, v)
				if lost && worst == Kept {
					t.Fatalf("silence at %+v after %+v", l, w)
				}
				w.Update(l)
			}
		}
	})
}

package reconciler

import (
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func TestVerified_EndsEarlierWarnings(t *testing.T) {
	for name, test := range map[string]struct {
		began time.Duration // after the warning
		all   bool
		ends  bool
	}{
		"all tables":        {time.Second, true, true},
		"some tables":       {time.Second, false, false},
		"compared too soon": {-time.Second, true, false},
	} {
		r := &Reconciler{Config: Config{Health: telemetry.NewHealth()}}
		r.setUnverified("the stream is not known")
		r.Verified(Verification{Began: time.Now().Add(test.began), Tables: []string{"order"}, All: test.all})
		if ended := len(r.Health.Report().Warnings) == 0; ended != test.ends {
			t.Errorf("%s: the warning has ended: %t", name, ended)
		}
	}
}

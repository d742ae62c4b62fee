package server

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestARenewalWaitsForAnImport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wishes
		w.awaitImport(t.Context()) // there is none
		w.ask(&importOrder{})
		over := false
		go func() {
			w.awaitImport(t.Context())
			over = true
		}()
		w.pause(true)
		synctest.Wait()
		if over {
			t.Error("a renewal comes in the middle of an import")
		}
		w.done(true)
		synctest.Wait()
		if !over {
			t.Error("a renewal does not follow the end of an import")
		}
		w.ask(&importOrder{})
		ended, end := context.WithCancel(t.Context())
		end()
		w.awaitImport(ended)
	})
}

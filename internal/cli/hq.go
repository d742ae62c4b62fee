//go:build !use_custom_driver || use_devhq

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/devhq"
)

func newHQ(p Process, common *config.CommonFlags) *cobra.Command {
	var httpPort, natsPort int
	o := devhq.Options{Open: true}
	cmd := &cobra.Command{
		Use:   "hq",
		Short: "Run a small HQ on this machine, with a simulated repair shop as its data",
		Long: `Runs an HQ for development: the API, NATS, and a simulated auto-repair shop whose
rows keep changing. Use it to try eds and for tests.

It keeps everything in the data directory and continues there the next time. If it
is killed, the shop loses its last changes and the stream begins again; then eds
server asks for an import.`,
		Example: "  eds hq --rate 200",
		Args:    noArgs,
	}
	cmd.Flags().IntVar(&httpPort, "http-port", 3101, "`port` of the API, 0 for any free one")
	cmd.Flags().IntVar(&natsPort, "nats-port", 4222, "`port` of NATS, 0 for any free one")
	cmd.Flags().Float64Var(&o.Rate, "rate", 50, "changes per second; 0 for none")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 1, "seed of a new shop; the same seed makes the same shop")
	cmd.Flags().IntVar(&o.Customers, "customers", 500, "customers of a new shop")
	cmd.Flags().DurationVar(&o.EvolveEvery, "evolve-every", 0, "how often the schema changes; 0 for never")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case o.Rate < 0:
			return usagef("--rate: want 0 or more changes per second")
		case o.Customers < 1:
			return usagef("--customers: want at least 1")
		}
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		o.DataDir, o.Logger = s.common.DataDir, s.logger
		o.HTTPAddr, o.NATSAddr = fmt.Sprintf("127.0.0.1:%d", httpPort), fmt.Sprintf("127.0.0.1:%d", natsPort)
		hq, err := devhq.Start(cmd.Context(), o)
		if err != nil {
			return err
		}
		if err := introduce(out(cmd), hq, o); err != nil {
			return errors.Join(err, hq.Close())
		}
		select {
		case <-cmd.Context().Done():
		case <-hq.Done():
		}
		return hq.Close()
	}
	return cmd
}

// introduce prints the addresses of HQ, and commands with which the user can try eds.
func introduce(w io.Writer, hq *devhq.HQ, o devhq.Options) error {
	code, err := hq.NewEnrolment()
	if err != nil {
		return err
	}
	eds, err := os.Executable()
	if err != nil {
		eds = "eds"
	}
	url := "sqlite://shop.db"
	_, err = fmt.Fprintf(w, `HQ is running.

  API   %[1]s
  NATS  %[2]s
  data  %[3]s
  shop  %[4]g changes per second, seed %[5]d

Follow it from another terminal:

  %[6]s enroll --data-dir ./eds-data --api-url %[1]s %[7]s
  %[6]s import --data-dir ./eds-data --url %[8]s
  %[6]s server --data-dir ./eds-data --url %[8]s --server %[2]s

The enrolment code works once. Stop with Ctrl-C.
`, hq.APIURL(), hq.NATSURL(), o.DataDir, o.Rate, o.Seed, eds, code, url)
	return err
}

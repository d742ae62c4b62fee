package cli

import (
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
		Short: "Run a small HQ of your own, with a simulated repair shop as its data",
		Long: `Runs the other side of eds on this machine: its API, its NATS and a simulated
auto-repair shop whose rows keep changing. Good for trying eds out and for tests.
Everything is kept in the data directory, so that it goes on where it was.`,
		Example: "  eds hq --rate 200",
		Args:    noArgs,
	}
	cmd.Flags().IntVar(&httpPort, "http-port", 3101, "`port` of the API, 0 for any free one")
	cmd.Flags().IntVar(&natsPort, "nats-port", 4222, "`port` of NATS, 0 for any free one")
	cmd.Flags().Float64Var(&o.Rate, "rate", 50, "changes a second; 0 for none")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 1, "seed of the shop; the same one makes the same shop")
	cmd.Flags().IntVar(&o.Customers, "customers", 500, "customers that a new shop begins with")
	cmd.Flags().DurationVar(&o.EvolveEvery, "evolve-every", 0, "how often the schema changes; 0 for never")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case o.Rate < 0:
			return usagef("--rate: want 0 or more changes a second")
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
			return closing(hq, err)
		}
		select {
		case <-cmd.Context().Done():
		case <-hq.Done():
		}
		return closing(hq, nil)
	}
	return cmd
}

func closing(c io.Closer, err error) error {
	if closeErr := c.Close(); err == nil {
		err = closeErr
	}
	return err
}

// introduce says what runs where, and how to use it.
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
	_, err = fmt.Fprintf(w, `HQ runs.

  API   %[1]s
  NATS  %[2]s
  data  %[3]s
  shop  %[4]g changes a second, seed %[5]d

Follow it from another terminal:

  %[6]s enroll --data-dir ./eds-data --api-url %[1]s %[7]s
  %[6]s import --data-dir ./eds-data --url %[8]s
  %[6]s server --data-dir ./eds-data --url %[8]s --server %[2]s

The code works once. Stop with Ctrl-C.
`, hq.APIURL(), hq.NATSURL(), o.DataDir, o.Rate, o.Seed, eds, code, url)
	return err
}

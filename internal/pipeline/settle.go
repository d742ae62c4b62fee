package pipeline

import "context"

// settle is the last stage: it acknowledges what is durable. It outlives a
// failed applier, for what came before the failure.
func (p *Pipeline) settle(hard context.Context) error {
	for d := range p.applied {
		for more := true; more; { // one acknowledgement for all that is there
			select {
			case next, ok := <-p.applied:
				if more = ok; ok {
					d = delivered{d.upTo.Advance(next.upTo), d.messages + next.messages, d.memory + next.memory}
				}
			default:
				more = false
			}
		}
		err := p.persist(hard, troubleSource, func() error { return p.c.Source.Settle(hard, d.upTo) })
		if err != nil {
			return err
		}
		p.settled.Store(d.upTo.Sequence)
		p.flow.release(d.messages, d.memory)
		p.status.settled(d)
	}
	return nil
}

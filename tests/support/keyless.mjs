// Makes the keyless signatures in tests/data/signatures, with a Fulcio, a CT log and a Rekor of sigstore's own mocks:
//   npm install @sigstore/mock @sigstore/sign @sigstore/verify @sigstore/bundle @sigstore/protobuf-specs
//   node tests/support/keyless.mjs tests/data/signatures      (from a directory below which the packages are)
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createRequire } from 'node:module';
const require = createRequire(path.join(process.cwd(), 'here.js'));
const { fulcioHandler, initializeCA, initializeCTLog, initializeTLog } = require('@sigstore/mock');
const { DSSEBundleBuilder, FulcioSigner, MessageSignatureBundleBuilder, RekorWitness } = require('@sigstore/sign');
const { bundleFromJSON, bundleToJSON } = require('@sigstore/bundle');
const { toSignedEntity, toTrustMaterial, Verifier } = require('@sigstore/verify');
const { TrustedRoot } = require('@sigstore/protobuf-specs');

const out = process.argv[2];
const ISSUER = 'https://issuer.example';
const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');
const key = () => crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
const base64 = (text) => Buffer.from(text).toString('base64');

// Rekor records certificates as PEM with lines of 64 characters.
const wrapped = (content) => {
  const body = Buffer.from(content, 'base64').toString().replace(/-----[^-]*-----/g, '').replace(/\s/g, '');
  return base64(`-----BEGIN CERTIFICATE-----\n${body.match(/.{1,64}/g).join('\n')}\n-----END CERTIFICATE-----\n`);
};

// The mock stores proposals as they are; a real log stores what it has made of them.
const recorded = (entry) => {
  if (entry.kind === 'hashedrekord') {
    entry.spec.signature.publicKey.content = wrapped(entry.spec.signature.publicKey.content);
    return entry;
  }
  const envelope = JSON.parse(entry.spec.proposedContent.envelope);
  return {
    apiVersion: '0.0.1',
    kind: 'dsse',
    spec: {
      envelopeHash: { algorithm: 'sha256', value: sha256(entry.spec.proposedContent.envelope) },
      payloadHash: { algorithm: 'sha256', value: sha256(Buffer.from(envelope.payload, 'base64')) },
      signatures: envelope.signatures.map((each) => ({
        signature: each.sig,
        verifier: wrapped(entry.spec.proposedContent.verifiers[0]),
      })),
    },
  };
};

const serve = (handle) =>
  new Promise((resolve) => {
    const server = http.createServer((request, response) => {
      const chunks = [];
      request.on('data', (chunk) => chunks.push(chunk));
      request.on('end', async () => {
        const answer = await handle(Buffer.concat(chunks).toString());
        response.writeHead(answer.statusCode, { 'Content-Type': 'application/json' });
        response.end(answer.response);
      });
    });
    server.listen(0, '127.0.0.1', () => resolve({ server, url: `http://127.0.0.1:${server.address().port}` }));
  });

async function instance() {
  const ctlog = await initializeCTLog(key());
  const ca = await initializeCA(key(), ctlog);
  const tlog = await initializeTLog('https://log.example', key());
  const fulcio = await serve(fulcioHandler(ca).fn);
  const rekor = await serve(async (body) => ({
    statusCode: 201,
    response: JSON.stringify(await tlog.log(recorded(JSON.parse(body)))),
  }));
  return { ctlog, ca, tlog, fulcio, rekor };
}

const token = (subject) =>
  `${base64('{"alg":"none"}')}.${Buffer.from(JSON.stringify({ sub: subject, iss: ISSUER, aud: 'sigstore' })).toString('base64url')}.`;

const options = (world, subject) => ({
  signer: new FulcioSigner({
    fulcioBaseURL: world.fulcio.url,
    identityProvider: { getToken: async () => token(subject) },
  }),
  witnesses: [new RekorWitness({ rekorBaseURL: world.rekor.url, entryType: 'dsse' })],
});

// The verdict of @sigstore/verify about a bundle.
const judged = (bundle, world, subject, data = manifest) => {
  const material = toTrustMaterial(TrustedRoot.fromJSON(trustedRoot(world)));
  try {
    const parsed = bundleFromJSON(bundle);
    const entity = bundle.messageSignature ? toSignedEntity(parsed, data) : toSignedEntity(parsed);
    new Verifier(material).verify(entity, { subjectAlternativeName: subject, extensions: { issuer: ISSUER } });
    return true;
  } catch (error) {
    return false;
  }
};

// JSON of protocol buffers leaves out zeros, which some readers require.
const complete = (bundle) => {
  const document = bundleToJSON(bundle);
  const material = document.verificationMaterial;
  if (material.x509CertificateChain) {
    document.mediaType = 'application/vnd.dev.sigstore.bundle.v0.3+json';
    material.certificate = material.x509CertificateChain.certificates[0];
    delete material.x509CertificateChain;
  }
  for (const entry of document.verificationMaterial.tlogEntries) {
    entry.inclusionProof.logIndex ??= '0';
    entry.inclusionProof.hashes ??= [];
  }
  return document;
};

const statement = (digest, predicateType) =>
  Buffer.from(
    JSON.stringify({
      _type: 'https://in-toto.io/Statement/v1',
      subject: [{ digest: { sha256: digest } }],
      predicateType,
      predicate: {},
    }),
  );

const raw = (view) => Buffer.from(view.buffer ?? view).toString('base64');
const pem = (label, content) => `-----BEGIN ${label}-----\n${content.match(/.{1,64}/g).join('\n')}\n-----END ${label}-----\n`;

function trustedRoot(world) {
  const start = { start: '2020-01-01T00:00:00Z' };
  const log = (each, url) => ({
    baseUrl: url,
    hashAlgorithm: 'SHA2_256',
    publicKey: { rawBytes: each.publicKey.toString('base64'), keyDetails: 'PKIX_ECDSA_P256_SHA_256', validFor: start },
    logId: { keyId: crypto.createHash('sha256').update(each.publicKey).digest('base64') },
  });
  return {
    mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1',
    tlogs: [log(world.tlog, 'https://log.example')],
    certificateAuthorities: [
      {
        subject: { organization: 'sigstore.mock', commonName: 'sigstore' },
        uri: 'https://fulcio.example',
        certChain: { certificates: [{ rawBytes: raw(world.ca.rootCertificate) }] },
        validFor: start,
      },
    ],
    ctlogs: [log(world.ctlog, 'https://ctlog.example')],
    timestampAuthorities: [],
  };
}

const write = (name, content) =>
  fs.writeFileSync(path.join(out, name), typeof content === 'string' ? content : `${JSON.stringify(content, null, 1)}\n`);
const manifest = fs.readFileSync(path.join(out, 'manifest.json'));
const digest = sha256(manifest);
const SIGN = 'https://sigstore.dev/cosign/sign/v1';
const world = await instance();
const other = await instance();
const dsse = async (place, subject, data) =>
  complete(await new DSSEBundleBuilder(options(place, subject)).create({ data, type: 'application/vnd.in-toto+json' }));

const bundles = {
  signed: await dsse(world, 'releases@example.com', statement(digest, SIGN)),
  'other-identity': await dsse(world, 'other@example.com', statement(digest, SIGN)),
  'other-image': await dsse(world, 'releases@example.com', statement(sha256('other'), SIGN)),
  attestation: await dsse(world, 'releases@example.com', statement(digest, 'https://slsa.dev/provenance/v1')),
  'other-world': await dsse(other, 'releases@example.com', statement(digest, SIGN)),
  message: complete(
    await new MessageSignatureBundleBuilder(options(world, 'releases@example.com')).create({ data: manifest }),
  ),
};
const verdicts = {};
for (const [name, bundle] of Object.entries(bundles)) {
  write(`${name}.json`, bundle);
  verdicts[name] = judged(bundle, world, 'releases@example.com');
}
// Each field of a bundle changed: what the peer says of it.
for (const [name, change] of Object.entries({
  'signed, other payload': (b) => (b.dsseEnvelope.payload = base64('{}')),
  'signed, other signature': (b) => (b.dsseEnvelope.signatures[0].sig = bundles['other-image'].dsseEnvelope.signatures[0].sig),
  'signed, other certificate': (b) => (b.verificationMaterial.certificate = bundles.message.verificationMaterial.certificate),
  'signed, no log entry': (b) => (b.verificationMaterial.tlogEntries = []),
  'signed, other log entry': (b) => (b.verificationMaterial.tlogEntries = bundles['other-image'].verificationMaterial.tlogEntries),
  'signed, later': (b) => (b.verificationMaterial.tlogEntries[0].integratedTime = '2000000000'),
})) {
  const changed = structuredClone(bundles.signed);
  change(changed);
  write(`${name.replace(/, | /g, '-')}.json`, changed);
  verdicts[name.replace(/, | /g, '-')] = judged(changed, world, 'releases@example.com');
}
write('verdicts.json', verdicts);

// Signatures in .sig tags, as cosign up to version 2 makes them: the peer judges them as bundles of version 0.1.
const payload = (hex) =>
  Buffer.from(
    JSON.stringify({
      critical: {
        identity: { 'docker-reference': 'quay.io/kolla/nova-api' },
        image: { 'docker-manifest-digest': `sha256:${hex}` },
        type: 'cosign container image signature',
      },
      optional: null,
    }),
  );
const tagged = async (place, subject, data) => {
  const bundle = complete(await new MessageSignatureBundleBuilder(options(place, subject)).create({ data }));
  const material = bundle.verificationMaterial;
  const [entry] = material.tlogEntries;
  delete entry.inclusionProof;
  const certificate = material.certificate.rawBytes;
  bundle.mediaType = 'application/vnd.dev.sigstore.bundle+json;version=0.1';
  material.x509CertificateChain = { certificates: [material.certificate] };
  delete material.certificate;
  const recordedAs = {
    SignedEntryTimestamp: entry.inclusionPromise.signedEntryTimestamp,
    Payload: {
      body: entry.canonicalizedBody,
      integratedTime: Number(entry.integratedTime),
      logIndex: Number(entry.logIndex),
      logID: Buffer.from(entry.logId.keyId, 'base64').toString('hex'),
    },
  };
  return {
    payload: data.toString('base64'),
    annotations: {
      'dev.cosignproject.cosign/signature': bundle.messageSignature.signature,
      'dev.sigstore.cosign/certificate': pem('CERTIFICATE', certificate),
      'dev.sigstore.cosign/bundle': JSON.stringify(recordedAs),
    },
    verdict: judged(bundle, world, 'releases@example.com', data),
  };
};
write('tags.json', {
  signed: await tagged(world, 'releases@example.com', payload(digest)),
  'other-identity': await tagged(world, 'other@example.com', payload(digest)),
  'other-image': await tagged(world, 'releases@example.com', payload(sha256('other'))),
  'other-world': await tagged(other, 'releases@example.com', payload(digest)),
});
for (const [name, place] of [['', world], ['other-', other]]) {
  write(`${name}trusted_root.json`, trustedRoot(place));
  write(`${name}ca.pem`, pem('CERTIFICATE', raw(place.ca.rootCertificate)));
  write(`${name}rekor.pem`, pem('PUBLIC KEY', place.tlog.publicKey.toString('base64')));
  place.fulcio.server.close();
  place.rekor.server.close();
}
